"""Pictures of more rows than a band and more bytes than are inflated at once."""

import io
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from serve.codec import decode_picture
from serve.errors import InvalidImage
from tests import pictures

LIMIT = 40_000_000
WIDTH = 1365
"""Rows of 4096 bytes, the filter's included, so that 1024 of them are 4 MiB."""


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    return decode_picture(data, "images[0]", LIMIT)


def file_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def with_pixel_data(file: bytes, data: bytes) -> bytes:
    chunks = pictures.split(file)
    return pictures.join([chunks[0], (b"IDAT", data), chunks[-1]])


def pixel_data(file: bytes) -> bytes:
    return b"".join(body for name, body in pictures.split(file) if name == b"IDAT")


@pytest.mark.parametrize("height", [1023, 1024, 1025, 2048])
@pytest.mark.parametrize("flat", [False, True])
def test_a_large_picture_is_read_bit_for_bit(height: int, flat: bool):
    pixels = np.full((height, WIDTH, 3), 7, np.uint8) if flat else pictures.photo((WIDTH, height))
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize("height", [1024, 2048, 2049])
def test_the_end_of_large_pixel_data_is_checked(height: int):
    file = file_of(Image.fromarray(pictures.photo((WIDTH, height))))
    data = pixel_data(file)
    assert decode(with_pixel_data(file, data)).shape == (height, WIDTH, 3)
    rows = zlib.decompress(data)
    damages = {
        "end too early": zlib.compress(rows[:-1], 1),
        "are damaged": data[:-1] + bytes([data[-1] ^ 1]),  # the checksum of the rows
    }
    for reason, damaged in damages.items():
        with pytest.raises(InvalidImage, match=reason):
            decode(with_pixel_data(file, damaged))


def test_rows_beyond_the_last_are_passed_over():
    file = file_of(Image.fromarray(pixels := pictures.photo((WIDTH, 1024))))
    longer = zlib.compress(zlib.decompress(pixel_data(file)) + bytes(2**20), 1)
    np.testing.assert_array_equal(decode(with_pixel_data(file, longer)), pixels)


def test_transparency_and_16_bits_are_treated_alike_in_every_band():
    """Every row is the same, so every row of the result is."""
    row = np.asarray(pictures.noise((40, 1), "rgba", 16), np.uint16)
    decoded = decode(pictures.write_png(np.repeat(row, 200, axis=0), "rgba", 16))
    np.testing.assert_array_equal(decoded, np.repeat(decode(pictures.write_png(row, "rgba", 16)), 200, axis=0))


def test_grey_of_one_bit_is_read_in_every_band():
    samples = pictures.noise((33, 150), "grey", 1)
    expected = np.repeat(samples.reshape(150, 33, 1).astype(np.uint8) * 255, 3, axis=2)
    np.testing.assert_array_equal(decode(pictures.write_png(samples, "grey", 1)), expected)
