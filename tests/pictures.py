"""Pictures for tests: arrays that look like photos, a PNG writer that knows every layout, and files of every kind.

The writer is here because no library writes all of PNG: interlaced, 16 bits, every row filter, any extra chunk.
"""

import base64
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Colour = Literal["grey", "rgb", "palette", "grey+alpha", "rgba"]
Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(H, W, channels), or (H, W) for one channel; values of 0 to 2**depth - 1."""
Chunk = tuple[bytes, bytes]
"""Name and body."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES: dict[Colour, int] = {"grey": 0, "rgb": 2, "palette": 3, "grey+alpha": 4, "rgba": 6}
CHANNELS: dict[Colour, int] = {"grey": 1, "rgb": 3, "palette": 1, "grey+alpha": 2, "rgba": 4}
LAYOUTS: tuple[tuple[Colour, int], ...] = (
    *(("grey", depth) for depth in (1, 2, 4, 8, 16)),
    *(("palette", depth) for depth in (1, 2, 4, 8)),
    *((colour, depth) for colour in ("rgb", "grey+alpha", "rgba") for depth in (8, 16)),
)
"""Every colour and depth that PNG has."""

# https://www.w3.org/TR/png-3/#8Interlace: first column, first row, column step, row step of each Adam7 pass
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


# Arrays


def photo(size: tuple[int, int] = (64, 48), seed: int = 0, channels: int = 3) -> npt.NDArray[np.uint8]:
    """(H, W, channels) of smooth noise with some grain, as photos are: coarse shapes, no flat areas."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, channels), np.uint8)
    bands = [Image.fromarray(coarse[..., c]).resize(size, Image.Resampling.BICUBIC) for c in range(channels)]
    smooth = np.stack([np.asarray(band) for band in bands], axis=-1).astype(np.int16)
    return (smooth + rng.integers(-4, 5, (height, width, channels))).clip(0, 255).astype(np.uint8)


def noise(size: tuple[int, int], colour: Colour, depth: int, seed: int = 0) -> Samples:
    """Evenly distributed samples for a layout, so that every value of a small depth occurs."""
    width, height = size
    rng = np.random.default_rng(seed)
    kind = np.uint16 if depth == 16 else np.uint8
    return rng.integers(0, 2**depth, (height, width, CHANNELS[colour]), kind)


def mask_array(size: tuple[int, int] = (64, 48)) -> npt.NDArray[np.uint8]:
    """(H, W): black, with a white rectangle over the middle half of each side."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 255
    return mask


# The writer


def write_png(
    samples: Samples,
    colour: Colour = "rgb",
    depth: int = 8,
    *,
    interlaced: bool = False,
    before: Sequence[Chunk] = (),
    after: Sequence[Chunk] = (),
    data_chunk: int = 2**30,
) -> bytes:
    """A PNG file. before and after: chunks on either side of the pixel data, which are cut into `data_chunk` bytes.

    Rows take the five filters in turn.
    """
    pixels = samples.reshape(*samples.shape[:2], CHANNELS[colour])
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[colour], 0, 0, int(interlaced))
    data = zlib.compress(b"".join(_filtered_rows(pixels, depth, interlaced)))
    pieces = [(b"IDAT", data[at : at + data_chunk]) for at in range(0, len(data), data_chunk)]
    return join([(b"IHDR", header), *before, *pieces, *after, (b"IEND", b"")])


def join(chunks: Sequence[Chunk]) -> bytes:
    """A file of these chunks with right lengths and checksums."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def split(data: bytes) -> list[Chunk]:
    """The chunks of a whole PNG."""
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def palette_chunk(colours: npt.NDArray[np.uint8]) -> Chunk:
    return b"PLTE", colours.astype(np.uint8).tobytes()


def orientation_chunk(orientation: int, order: Literal["<", ">"] = "<") -> Chunk:
    """An eXIf chunk that holds two tags, of which the second is the orientation."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    software = struct.pack(order + "HHI4s", 0x0100, 4, 1, struct.pack(order + "I", 7))
    tag = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"eXIf", mark + struct.pack(order + "IH", 8, 2) + software + tag + struct.pack(order + "I", 0)


def _filtered_rows(pixels: Samples, depth: int, interlaced: bool) -> Iterator[bytes]:
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    stride = max(1, pixels.shape[2] * depth // 8)
    for left, top, right, down in passes:
        part = pixels[top::down, left::right]
        if part.size == 0:
            continue
        above = np.zeros(len(_packed(part[0], depth)), np.uint8)
        for y, row in enumerate(part):
            packed = _packed(row, depth)
            yield bytes([y % 5]) + (packed - _prediction(y % 5, packed, above, stride)).tobytes()
            above = packed


def _packed(row: Samples, depth: int) -> npt.NDArray[np.uint8]:
    """The bytes of a row: big-endian at 16 bits, several pixels a byte below 8."""
    if depth == 16:
        return np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
    flat = row.astype(np.uint8).ravel()
    return flat if depth == 8 else np.packbits(np.unpackbits(flat[:, None], axis=1)[:, -depth:])


def _prediction(
    kind: int, row: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], stride: int
) -> npt.NDArray[np.uint8]:
    """What a row's filter (0 none, 1 sub, 2 up, 3 average, 4 Paeth) subtracts from its bytes."""
    a = np.concatenate([np.zeros(stride, np.uint8), row])[: len(row)].astype(np.int16)
    b = above.astype(np.int16)
    c = np.concatenate([np.zeros(stride, np.uint8), above])[: len(row)].astype(np.int16)
    p = a + b - c
    near_a, near_b, near_c = abs(p - a), abs(p - b), abs(p - c)
    paeth = np.where((near_a <= near_b) & (near_a <= near_c), a, np.where(near_b <= near_c, b, c))
    return (0 * a, a, b, (a + b) // 2, paeth)[kind].astype(np.uint8)


# Files


def rgb(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(photo(size, seed))


def rgba(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """A photo whose left half is opaque and fades out to the right."""
    return write_png(np.dstack([photo(size, seed), _fade(size)]), "rgba")


def grey(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(photo(size, seed, 1), "grey")


def grey_alpha(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(np.dstack([photo(size, seed, 1), _fade(size)]), "grey+alpha")


def one_bit(size: tuple[int, int] = (64, 48)) -> bytes:
    return write_png(mask_array(size) // 255, "grey", 1)


def rgb16(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(noise(size, "rgb", 16, seed), "rgb", 16)


def grey16(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(noise(size, "grey", 16, seed), "grey", 16)


def palette(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(photo(size, seed, 1), "palette", before=[palette_chunk(photo((16, 16), seed + 1))])


def palette_transparent(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """Entries 0 to 127 fade in, the rest are opaque."""
    fade = (b"tRNS", bytes(range(0, 256, 2)))
    return write_png(photo(size, seed, 1), "palette", before=[palette_chunk(photo((16, 16), seed + 1)), fade])


def interlaced(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return write_png(photo(size, seed), interlaced=True)


def oriented(orientation: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """A photo stored as `photo(size, seed)` with an EXIF orientation of 1 to 8."""
    return write_png(photo(size, seed), before=[orientation_chunk(orientation)])


def animated(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """An APNG of three frames, of which `rgb(size, seed)` is the first."""
    frames = [Image.fromarray(photo(size, seed + k)) for k in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def mask(size: tuple[int, int] = (64, 48)) -> bytes:
    """Grey: `mask_array`, so that the middle is edited."""
    return write_png(mask_array(size), "grey")


def alpha_mask(size: tuple[int, int] = (64, 48)) -> bytes:
    """OpenAI's convention: a photo whose middle, where `mask_array` is white, is transparent."""
    return write_png(np.dstack([photo(size), 255 - mask_array(size)]), "rgba")


def truncated() -> bytes:
    whole = rgb()
    return whole[: len(whole) // 2]


def bad_checksum() -> bytes:
    """A photo of which one bit of the pixel data has flipped."""
    data = bytearray(rgb())
    data[len(data) // 2] ^= 1
    return bytes(data)


def bomb(size: tuple[int, int] = (30_000, 30_000)) -> bytes:
    """Some dozen bytes whose header says that they are a huge picture."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return join([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])


def text_bomb(chunk: Literal["zTXt", "iTXt", "iCCP"], inflated: int = 64 * 2**20) -> bytes:
    """A small photo beside a text or profile chunk that inflates to many megabytes."""
    start = {"zTXt": b"k\0\0", "iTXt": b"k\0\1\0\0\0", "iCCP": b"k\0\0"}[chunk]
    return write_png(photo(), before=[(chunk.encode(), start + zlib.compress(bytes(inflated), 9))])


def of_bytes(count: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """`rgb(size)` with a private chunk that makes the file exactly `count` bytes long."""
    padding = count - len(rgb(size)) - 12
    return write_png(photo(size), after=[(b"reTo", bytes(padding))])


def other_format(name: Literal["JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, name)
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64_of(data)}"


def _fade(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    width, height = size
    row = np.linspace(510, 0, width).clip(0, 255).astype(np.uint8)
    return np.tile(row, (height, 1))
