"""The PNG format: chunks, checksums and samples. https://www.w3.org/TR/png-3/

The container is read here and not by an image library, because here every byte is checked and nothing that is not
needed is touched: text and colour-profile chunks are never inflated, animation frames never read, all 16 bits of a
sample arrive. Pillow's decoder undoes the row filters and the interlacing.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image

from serve.codec.bands import bands
from serve.types import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_SIDE = 2**31 - 1
_INFLATED_AT_ONCE = 2**22

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")

# How Pillow names each layout: mode and raw mode. 16 bits a sample are two reads, of the high and of the low bytes,
# except where the bytes of the samples also make an 8-bit layout with the same pixel stride, and so the same filters.
_LAYOUTS: dict[tuple[int, int], tuple[tuple[str, str], ...]] = {
    (GREY, 1): (("1", "1"),),
    (GREY, 2): (("L", "L;2"),),
    (GREY, 4): (("L", "L;4"),),
    (GREY, 8): (("L", "L"),),
    (GREY, 16): (("LA", "LA"),),
    (RGB, 8): (("RGB", "RGB"),),
    (RGB, 16): (("RGB", "RGB;16B"), ("RGB", "RGB;16L")),
    (PALETTE, 1): (("P", "P;1"),),
    (PALETTE, 2): (("P", "P;2"),),
    (PALETTE, 4): (("P", "P;4"),),
    (PALETTE, 8): (("P", "P"),),
    (GREY_ALPHA, 8): (("LA", "LA"),),
    (GREY_ALPHA, 16): (("RGBA", "RGBA"),),
    (RGBA, 8): (("RGBA", "RGBA"),),
    (RGBA, 16): (("RGBA", "RGBA;16B"), ("RGBA", "RGBA;16L")),
}

# https://www.w3.org/TR/png-3/#8Interlace: first column, first row, column step, row step of each pass
_ONE_PASS = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class BrokenPNG(ValueError):
    """The reason, as the end of a sentence about the file."""


@dataclass(frozen=True, slots=True)
class Header:
    """depth: bits a sample. colour: PNG's colour type."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool


@dataclass(frozen=True, slots=True)
class Raster:
    """A decoded picture as it lies in the file, before its orientation is applied.

    colour: (H, W, 1) grey or (H, W, 3) RGB. alpha: (H, W), 255 is opaque, or None where the file has none.
    orientation: 1 to 8 as EXIF counts; 1 is upright.
    """

    colour: Pixels
    alpha: Pixels | None
    orientation: int


def read_header(data: bytes) -> Header:
    """The header of bytes that begin with the signature. Raises BrokenPNG."""
    name, body = next(_chunks(data))
    if name != b"IHDR" or len(body) != 13:
        raise BrokenPNG("it does not begin with a header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise BrokenPNG(f"its header says {width}x{height} pixels")
    if (colour, depth) not in _LAYOUTS or compression or filtering or interlace > 1:
        raise BrokenPNG("its header names a layout that PNG does not have")
    return Header(width, height, depth, colour, interlace == 1)


def read(data: bytes, header: Header) -> Raster:
    """The pixels of the default image, 8 bits a sample. Raises BrokenPNG."""
    chunks = _collect(data)
    high, low = _samples(header, b"".join(chunks.get(b"IDAT", [])))
    transparency = _first(chunks, b"tRNS")
    orientation = exif_orientation(_first(chunks, b"eXIf") or b"")
    if header.colour == PALETTE:
        return Raster(*_look_up(high[..., 0], _first(chunks, b"PLTE"), transparency), orientation)
    if header.colour in (GREY_ALPHA, RGBA):
        _round_to_8_bits(high, low)
        return Raster(high[..., :-1], high[..., -1], orientation)
    alpha = _keyed_alpha(header, high, low, transparency)
    _round_to_8_bits(high, low)
    return Raster(high, alpha, orientation)


def exif_orientation(exif: bytes) -> int:
    """The orientation tag of a TIFF block, 1 to 8; 1 where it is absent or the block cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")  # a JPEG's marker, which early writers of this chunk copied
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, entry)
            if tag == 0x0112 and kind in (3, 4) and values == 1:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass  # like every viewer: a picture is not refused for metadata that nobody can read
    return 1


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and body of each chunk up to IEND, whole and with the right checksum. What follows IEND is passed over."""
    view, at, name = memoryview(data), len(SIGNATURE), b""
    while name != b"IEND":
        if at + 12 > len(data):
            raise BrokenPNG("it is cut off before its end")
        length, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha():
            raise BrokenPNG(f"byte {at} does not begin a chunk")
        end = at + 8 + length
        if end + 4 > len(data):
            raise BrokenPNG(f"it is cut off within its {name.decode()} chunk")
        if isal_zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise BrokenPNG(f"the checksum of its {name.decode()} chunk is wrong")
        yield name, view[at + 8 : end]
        at = end + 4


def _collect(data: bytes) -> dict[bytes, list[memoryview]]:
    """The bodies of the chunks that make the picture, by name, in the file's order."""
    found: dict[bytes, list[memoryview]] = {}
    for name, body in _chunks(data):
        if name in _CRITICAL or name in (b"tRNS", b"eXIf"):
            found.setdefault(name, []).append(body)
        elif name[:1].isupper():
            raise BrokenPNG(f"its {name.decode()} chunk is none of PNG's")
    for name in (b"IHDR", b"PLTE", b"tRNS"):
        if len(found.get(name, ())) > 1:
            raise BrokenPNG(f"it has more than one {name.decode()} chunk")
    return found


def _first(chunks: dict[bytes, list[memoryview]], name: bytes) -> bytes | None:
    return bytes(chunks[name][0]) if name in chunks else None


def _samples(header: Header, compressed: bytes) -> tuple[Pixels, Pixels | None]:
    """High and low bytes of the samples, (H, W, C) each; low is None at 8 bits and below."""
    layers = _layers(header, compressed)
    if header.depth < 16:
        return layers[0], None
    if len(layers) == 1:
        return layers[0][..., 0::2], layers[0][..., 1::2]
    return layers[0], layers[1]


def _layers(header: Header, compressed: bytes) -> list[Pixels]:
    """(H, W, C) for each of the layout's reads. What one step needs of another is let go as soon as it has run."""
    rows = _inflate(compressed, _filtered_length(header))
    images = [_unfilter(header, rows, *layout) for layout in _LAYOUTS[header.colour, header.depth]]
    del rows
    return [_pixels(images.pop(0)) for _ in range(len(images))]


def _filtered_length(header: Header) -> int:
    """Bytes of all rows of all passes, each with the byte that names its filter."""
    bits, total = header.depth * _CHANNELS[header.colour], 0
    for left, top, right, down in _ADAM7 if header.interlaced else _ONE_PASS:
        width, height = -(-(header.width - left) // right), -(-(header.height - top) // down)
        if width > 0 and height > 0:
            total += height * (1 + (width * bits + 7) // 8)
    return total


def _inflate(compressed: bytes, length: int) -> bytearray:
    """The filtered rows, as a stream of stored blocks: Pillow's decoder wants a zlib stream, isal inflates it faster.

    Unlike that decoder this also tells a stream that ends early. Memory grows with what really inflates.
    """
    inflater, storer, stored, inflated = isal_zlib.decompressobj(), zlib.compressobj(0), bytearray(), 0
    try:
        # one byte more than is wanted, so that the stream's end is read and its checksum compared
        while rows := inflater.decompress(compressed, min(_INFLATED_AT_ONCE, length + 1 - inflated)):
            inflated += len(rows)
            stored += storer.compress(rows)
            if inflater.eof or inflated > length:
                break
            compressed = inflater.unconsumed_tail
    except isal_zlib.error:  # pyright: ignore[reportGeneralTypeIssues]  # isal's stub calls the class an instance
        raise BrokenPNG("its pixel data are damaged") from None
    if inflated < length:
        raise BrokenPNG("its pixel data end too early")
    stored += storer.flush()
    return stored


def _unfilter(header: Header, rows: bytearray, mode: str, raw_mode: str) -> Image.Image:
    size = (header.width, header.height)
    try:
        image = Image.frombytes(mode, size, rows, "zip", raw_mode, int(header.interlaced))
    except (ValueError, OSError, SyntaxError, OverflowError, EOFError):
        raise BrokenPNG("its pixel data are damaged") from None
    return image.convert("L") if mode == "1" else image


def _pixels(image: Image.Image) -> Pixels:
    """(H, W, C), writable. Pillow hands a whole picture out by way of two more copies of it."""
    pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for rows in bands(image.height):
        band = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        pixels[rows] = band if band.ndim == 3 else band[..., None]
    return pixels


def _round_to_8_bits(high: Pixels, low: Pixels | None) -> None:
    """Changes high to round(v * 255 / 65535) of v = 256 high + low.

    65535 / 255 is 257, so v / 257 = high + (low - high) / 257.
    """
    if low is None:
        return
    for rows in bands(len(high)):
        upper, lower = high[rows], low[rows]
        up = (lower > upper) & (lower - upper > 128)
        down = (upper > lower) & (upper - lower > 128)
        upper += up
        upper -= down


def _look_up(
    indices: npt.NDArray[np.uint8], palette: bytes | None, transparency: bytes | None
) -> tuple[Pixels, Pixels | None]:
    """Colour and alpha by the palette; entries that it lacks are black and opaque."""
    if not palette or len(palette) % 3 or len(palette) > 768:
        raise BrokenPNG("its palette is missing or of a wrong length")
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette) // 3] = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if transparency is None:
        return colours[indices], None
    alphas = np.full(256, 255, np.uint8)
    alphas[: len(transparency)] = np.frombuffer(transparency[:256], np.uint8)
    return colours[indices], alphas[indices]


def _keyed_alpha(header: Header, high: Pixels, low: Pixels | None, transparency: bytes | None) -> Pixels | None:
    """Alpha of a picture in which one colour, written as 16 bits a sample, is transparent."""
    if transparency is None:
        return None
    channels = _CHANNELS[header.colour]
    if len(transparency) != 2 * channels:
        raise BrokenPNG("its tRNS chunk is of a wrong length")
    key = np.frombuffer(transparency, ">u2").astype(np.uint16)
    if low is None:
        top = 2**header.depth - 1
        opaque = (high != ((key & top) * (255 // top)).astype(np.uint8)).any(axis=-1)
    else:
        opaque = ((high != (key >> 8).astype(np.uint8)) | (low != (key & 255).astype(np.uint8))).any(axis=-1)
    return opaque.astype(np.uint8) * np.uint8(255)
