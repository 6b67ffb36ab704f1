"""Files that are no PNG, or a damaged one: always the right typed error, never another exception."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.codec import MaskMode, decode_mask, decode_picture
from serve.errors import EditError, InvalidImage, TooManyPixels, UnsupportedImageFormat
from serve.types import Pixels
from tests import pictures

LIMIT = 40_000_000
MODES: tuple[MaskMode, ...] = ("luma", "alpha", "auto")
HEADER = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
DATA = zlib.compress(bytes(8 * 25))

FOREIGN = {
    "a JPEG": pictures.other_format("JPEG"),
    "a WebP": pictures.other_format("WEBP"),
    "a GIF": pictures.other_format("GIF"),
    "a BMP": pictures.other_format("BMP"),
    "a TIFF": pictures.other_format("TIFF"),
    "an AVIF": pictures.other_format("AVIF"),
    "a HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a PDF": b"%PDF-1.7\n",
    "an SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "text and no picture": b"hello, I am no picture",
    "encoded twice": pictures.base64_of(pictures.rgb()).encode(),
    "no picture of a known format": bytes(range(1, 30)),
}


def header(width: int = 8, height: int = 8, rest: bytes = b"\x08\x02\0\0\0") -> bytes:
    return struct.pack(">II", width, height) + rest


def of_chunks(*chunks: pictures.Chunk) -> bytes:
    return pictures.join([*chunks, (b"IEND", b"")])


DAMAGED = {
    "empty": b"",
    "cut off in the signature": pictures.SIGNATURE[:4],
    "sent as text": pictures.rgb().replace(b"\r\n", b"\n"),
    "the signature alone": pictures.SIGNATURE,
    "truncated": pictures.truncated(),
    "no end": pictures.rgb()[:-12],
    "half an end": pictures.rgb()[:-2],
    "one bit flipped": pictures.bad_checksum(),
    "flipped in text": pictures.write_png(pictures.photo(), before=[(b"tEXt", b"abc")]).replace(b"tEXtabc", b"tEXtabd"),
    "no header": of_chunks((b"IDAT", DATA)),
    "a short header": of_chunks((b"IHDR", HEADER[:12]), (b"IDAT", DATA)),
    "two headers": of_chunks((b"IHDR", HEADER), (b"IHDR", HEADER), (b"IDAT", DATA)),
    "no width": of_chunks((b"IHDR", header(width=0)), (b"IDAT", DATA)),
    "no height": of_chunks((b"IHDR", header(height=0)), (b"IDAT", DATA)),
    "a negative width": of_chunks((b"IHDR", header(width=2**31)), (b"IDAT", DATA)),
    "a depth of 3": of_chunks((b"IHDR", header(rest=b"\x03\x02\0\0\0")), (b"IDAT", DATA)),
    "a colour of 5": of_chunks((b"IHDR", header(rest=b"\x08\x05\0\0\0")), (b"IDAT", DATA)),
    "another compression": of_chunks((b"IHDR", header(rest=b"\x08\x02\x01\0\0")), (b"IDAT", DATA)),
    "another filtering": of_chunks((b"IHDR", header(rest=b"\x08\x02\0\x01\0")), (b"IDAT", DATA)),
    "another interlacing": of_chunks((b"IHDR", header(rest=b"\x08\x02\0\0\x02")), (b"IDAT", DATA)),
    "no pixel data": of_chunks((b"IHDR", HEADER)),
    "empty pixel data": of_chunks((b"IHDR", HEADER), (b"IDAT", b"")),
    "pixel data that are not deflated": of_chunks((b"IHDR", HEADER), (b"IDAT", bytes(200))),
    "too few pixels": of_chunks((b"IHDR", HEADER), (b"IDAT", zlib.compress(bytes(7 * 25)))),
    "a wrong Adler checksum": of_chunks((b"IHDR", HEADER), (b"IDAT", DATA[:-1] + bytes([DATA[-1] ^ 1]))),
    "a filter of 9": of_chunks((b"IHDR", HEADER), (b"IDAT", zlib.compress(b"\x09" * 200))),
    "a chunk without a name": of_chunks((b"IHDR", HEADER), (b"\0\0\0\0", b""), (b"IDAT", DATA)),
    "a foreign critical chunk": of_chunks((b"IHDR", HEADER), (b"CgBI", b""), (b"IDAT", DATA)),
    "no palette": of_chunks((b"IHDR", header(rest=b"\x08\x03\0\0\0")), (b"IDAT", DATA)),
    "a palette of 4 bytes": of_chunks((b"IHDR", header(rest=b"\x08\x03\0\0\0")), (b"PLTE", b"1234"), (b"IDAT", DATA)),
    "a long palette": of_chunks((b"IHDR", header(rest=b"\x08\x03\0\0\0")), (b"PLTE", bytes(771)), (b"IDAT", DATA)),
    "a short tRNS": of_chunks((b"IHDR", HEADER), (b"tRNS", b"12"), (b"IDAT", DATA)),
    "a small bomb": pictures.bomb((6000, 6000)),
}


@pytest.mark.parametrize("found", FOREIGN)
def test_another_format_is_refused_by_its_name(found: str):
    with pytest.raises(UnsupportedImageFormat) as raised:
        decode_picture(FOREIGN[found], "images[4]", LIMIT)
    assert (raised.value.code, raised.value.param) == ("unsupported_image_format", "images[4]")
    assert found in raised.value.message
    assert raised.value.message.startswith("images[4] is ")


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_png_is_an_invalid_image(damage: str):
    for decode in (
        lambda: decode_picture(DAMAGED[damage], "mask", LIMIT),
        lambda: decode_mask(DAMAGED[damage], "auto", (64, 48), LIMIT),
    ):
        with pytest.raises(InvalidImage) as raised:
            decode()
        assert (raised.value.code, raised.value.param) == ("invalid_image", "mask")
        assert raised.value.message.startswith("mask is ")


@pytest.mark.parametrize("interlaced", [False, True])
def test_no_part_of_a_file_passes_for_the_whole(interlaced: bool):
    whole = pictures.write_png(pictures.photo((9, 7)), interlaced=interlaced)
    for length in range(len(whole)):
        with pytest.raises(InvalidImage):
            decode_picture(whole[:length], "images[0]", LIMIT)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), pictures.LAYOUTS)
def test_pixel_data_that_lack_one_byte_are_refused(colour: pictures.Colour, depth: int, interlaced: bool):
    chunks = pictures.split(
        pictures.write_png(pictures.noise((9, 7), colour, depth), colour, depth, interlaced=interlaced)
    )
    for missing, accepted in ((0, True), (1, False)):
        rows = zlib.decompress(chunks[1][1])
        data = pictures.join(
            [chunks[0], (b"PLTE", bytes(3)), (b"IDAT", zlib.compress(rows[: len(rows) - missing])), chunks[2]]
        )
        assert isinstance(outcome(lambda data=data: decode_picture(data, "images[0]", LIMIT)), InvalidImage) != accepted


def test_too_many_pixels_are_refused_by_the_header_alone():
    beginning = pictures.bomb()[:33]
    with pytest.raises(TooManyPixels) as raised:
        decode_picture(beginning, "images[1]", LIMIT)
    assert raised.value.message == "images[1] is 30000x30000; at most 40 megapixels are accepted"
    assert (raised.value.code, raised.value.param) == ("too_many_pixels", "images[1]")


def test_a_mask_of_too_many_pixels_is_refused_by_its_header():
    with pytest.raises(TooManyPixels, match="mask is 30000x30000") as raised:
        decode_mask(pictures.bomb(), "auto", (30_000, 30_000), LIMIT)
    assert raised.value.param == "mask"


def test_the_limit_of_pixels_is_kept_to_the_pixel():
    data = pictures.rgb((64, 48))
    assert decode_picture(data, "images[0]", 64 * 48).shape == (48, 64, 3)
    with pytest.raises(TooManyPixels, match="64x48; at most 3071 pixels"):
        decode_picture(data, "images[0]", 64 * 48 - 1)


def test_a_bomb_within_the_limit_of_pixels_takes_no_memory():
    """A header may claim all the pixels that are allowed; what inflates belies it before they are reserved."""
    before = _peak_memory_kib()
    with pytest.raises(InvalidImage, match="pixel data end too early"):
        decode_picture(pictures.bomb((2_000_000_000, 20)), "images[0]", 10**12)
    assert _peak_memory_kib() - before < 50_000


def _peak_memory_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def outcome(decode: Callable[[], Pixels]) -> Pixels | EditError:
    """What is decoded, or the typed error; any other exception fails the test."""
    try:
        return decode()
    except EditError as error:
        return error


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A valid file of any layout with bytes changed, removed, inserted or cut off, its checksums right or wrong."""
    colour, depth = draw(st.sampled_from(pictures.LAYOUTS))
    before = [pictures.palette_chunk(pictures.photo((16, 16)))] if colour == "palette" else []
    before.append(pictures.orientation_chunk(draw(st.integers(1, 8))))
    if draw(st.booleans()):
        before.append((b"tRNS", draw(st.binary(max_size=8))))
    samples = pictures.noise((9, 7), colour, depth)
    data = pictures.write_png(samples, colour, depth, interlaced=draw(st.booleans()), before=before)
    if draw(st.booleans()):
        chunks = pictures.split(data)
        which = draw(st.integers(0, len(chunks) - 1))
        name, body = chunks[which]
        chunks[which] = (name, _damage(draw, body))
        return pictures.join(chunks)
    return _damage(draw, data)


def _damage(draw: st.DrawFn, data: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 4))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + removed :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 4)) == 0 else data


@settings(max_examples=400, deadline=None)
@given(damaged_files())
def test_damage_ends_in_a_typed_error_or_a_picture(data: bytes):
    result = outcome(lambda: decode_picture(data, "images[0]", 1_000_000))
    if isinstance(result, EditError):
        assert (result.status, result.param) == (400, "images[0]")
    else:
        assert (result.dtype, result.ndim, result.shape[2]) == (np.uint8, 3, 3)


@settings(max_examples=100, deadline=None)
@given(damaged_files(), st.sampled_from(MODES))
def test_a_damaged_mask_ends_in_a_typed_error_or_a_mask(data: bytes, mode: MaskMode):
    result = outcome(lambda: decode_mask(data, mode, (9, 7), 1_000_000))
    if isinstance(result, EditError):
        assert (result.status, result.param) == (400, "mask")
    else:
        assert (result.dtype, result.shape) == (np.uint8, (7, 9))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_typed_error(data: bytes):
    with pytest.raises(EditError) as raised:
        decode_picture(data, "images[0]", LIMIT)
    assert raised.value.status == 400
