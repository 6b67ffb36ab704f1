"""PNG to RGB, against an independent reader (pypng) and the arrays that the files were written from."""

import io
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import png as pypng
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from serve.codec import decode_picture
from tests import pictures
from tests.pictures import Chunk, Colour

LIMIT = 40_000_000
SIZE = (23, 17)


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    return decode_picture(data, "images[0]", LIMIT)


def by_pypng(data: bytes) -> npt.NDArray[np.uint8]:
    """(H, W, 3) by the definition: samples scaled to 8 bits, rounded, then placed before white, rounded."""
    width, height, rows, info = pypng.Reader(bytes=data).asDirect()
    samples = np.array([list(row) for row in rows]).reshape(height, width, info["planes"])
    top = 2 ** info["bitdepth"] - 1
    scaled = np.floor(samples * 255 / top + 0.5)
    if info["alpha"]:
        alpha = scaled[..., -1:] / 255
        scaled = np.floor(scaled[..., :-1] * alpha + 255 * (1 - alpha) + 0.5 + 1e-9)
    return np.broadcast_to(scaled, (height, width, 3)).astype(np.uint8)


def palette_for(colour: Colour, depth: int) -> list[Chunk]:
    return [pictures.palette_chunk(pictures.photo((2**depth, 1), 9))] if colour == "palette" else []


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), pictures.LAYOUTS)
def test_every_layout_becomes_8_bit_rgb(colour: Colour, depth: int, interlaced: bool):
    samples = pictures.noise(SIZE, colour, depth)
    data = pictures.write_png(samples, colour, depth, interlaced=interlaced, before=palette_for(colour, depth))
    np.testing.assert_array_equal(decode(data), by_pypng(data))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(pictures.LAYOUTS), st.integers(1, 11), st.integers(1, 11), st.booleans(), st.integers(1, 40))
def test_no_size_is_too_small_and_pixel_data_may_be_cut_anywhere(
    layout: tuple[Colour, int], width: int, height: int, interlaced: bool, piece: int
):
    colour, depth = layout
    samples = pictures.noise((width, height), colour, depth, seed=width * height)
    data = pictures.write_png(
        samples, colour, depth, interlaced=interlaced, before=palette_for(colour, depth), data_chunk=piece
    )
    np.testing.assert_array_equal(decode(data), by_pypng(data))


def test_16_bit_samples_are_rounded_not_cut():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = [int(Fraction(v * 255, 65535) + Fraction(1, 2)) for v in range(65536)]
    for colour in ("grey", "rgb"):
        samples = values if colour == "grey" else np.repeat(values[..., None], 3, axis=2)
        decoded = decode(pictures.write_png(samples, colour, 16))
        for channel in range(3):
            assert decoded[..., channel].ravel().tolist() == expected


@pytest.mark.parametrize(("colour", "depth"), [layout for layout in pictures.LAYOUTS if layout[0] in ("grey", "rgb")])
def test_the_one_transparent_colour_of_a_picture_turns_white(colour: Colour, depth: int):
    samples = pictures.noise(SIZE, colour, depth, seed=3)
    samples[5, 5] = samples[0, 0]
    key = b"".join(int(v).to_bytes(2, "big") for v in samples[0, 0])
    data = pictures.write_png(samples, colour, depth, before=[(b"tRNS", key)])
    keyed = (samples == samples[0, 0]).all(axis=-1)
    assert (decode(data)[keyed] == 255).all()
    np.testing.assert_array_equal(decode(data), by_pypng(data))


def test_only_the_bits_of_the_depth_count_in_a_transparent_colour():
    data = pictures.write_png(np.array([[3, 4]], np.uint8), "grey", 4, before=[(b"tRNS", b"\xff\xf3")])
    assert decode(data).tolist() == [[[255] * 3, [4 * 17] * 3]]


def test_a_transparent_16_bit_colour_is_matched_in_all_its_bits():
    samples = np.full((2, 2, 1), 0x1234, np.uint16)
    samples[0, 0] = 0x1235
    decoded = decode(pictures.write_png(samples, "grey", 16, before=[(b"tRNS", b"\x12\x34")]))
    assert decoded[0, 0].tolist() == [0x12] * 3
    assert decoded[1, 1].tolist() == [255] * 3


@pytest.mark.parametrize("colour", ["rgba", "grey+alpha", "palette"])
def test_transparency_is_composed_over_white(colour: Colour):
    data = {"rgba": pictures.rgba, "grey+alpha": pictures.grey_alpha, "palette": pictures.palette_transparent}[colour]()
    decoded = decode(data)
    np.testing.assert_array_equal(decoded, by_pypng(data))
    layer = Image.open(io.BytesIO(data)).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert abs(decoded.astype(int) - np.asarray(flat).astype(int)).max() <= 1  # Pillow rounds in 7 bits of fraction


def test_a_palette_that_is_too_short_reads_black():
    data = pictures.write_png(np.array([[0, 1]], np.uint8), "palette", before=[(b"PLTE", b"\x0a\x0b\x0c")])
    assert decode(data).tolist() == [[[10, 11, 12], [0, 0, 0]]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_is_turned_upright(orientation: int, order: str):
    chunk = pictures.orientation_chunk(orientation, "<" if order == "<" else ">")
    data = pictures.write_png(pictures.photo(), before=[chunk])
    stored = Image.open(io.BytesIO(data))
    assert stored.getexif()[0x0112] == orientation
    np.testing.assert_array_equal(decode(data), np.asarray(ImageOps.exif_transpose(stored)))
    assert decode(data).shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))


def test_an_orientation_after_the_pixel_data_counts_too():
    data = pictures.write_png(pictures.photo(), after=[pictures.orientation_chunk(6)])
    np.testing.assert_array_equal(decode(data), decode(pictures.oriented(6)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"II*\0\x08\0\0\0" + tail))
def test_metadata_that_cannot_be_read_refuses_no_picture(exif: bytes):
    decoded = decode(pictures.write_png(pictures.photo((8, 8)), before=[(b"eXIf", exif)]))
    assert decoded.shape == (8, 8, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(value: int):
    np.testing.assert_array_equal(decode(pictures.oriented(value)), pictures.photo())


def test_an_animated_png_is_its_first_frame():
    np.testing.assert_array_equal(decode(pictures.animated()), pictures.photo())


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
def test_text_that_would_inflate_without_end_is_never_inflated(chunk: str):
    data = pictures.text_bomb("zTXt" if chunk == "zTXt" else "iTXt" if chunk == "iTXt" else "iCCP")
    np.testing.assert_array_equal(decode(data), pictures.photo())


def test_what_follows_the_end_of_the_file_is_passed_over():
    np.testing.assert_array_equal(decode(pictures.rgb() + b"trailer"), pictures.photo())


def test_a_padded_file_has_the_bytes_that_were_asked_for():
    data = pictures.of_bytes(100_001)
    assert len(data) == 100_001
    np.testing.assert_array_equal(decode(data), pictures.photo())


def test_pillows_own_pngs_are_read_bit_for_bit():
    file = io.BytesIO()
    Image.fromarray(pictures.photo((97, 61))).save(file, "PNG", optimize=True)
    np.testing.assert_array_equal(decode(file.getvalue()), pictures.photo((97, 61)))


def test_no_global_state_of_pillow_is_changed_or_obeyed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    np.testing.assert_array_equal(decode(pictures.rgb()), pictures.photo())
    assert Image.MAX_IMAGE_PIXELS == 1
