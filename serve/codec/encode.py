"""Pixels to the bytes of a PNG, JPEG or WebP."""

import io
import struct

import numpy as np
from isal import isal_zlib
from PIL import Image

from serve.codec.png import RGB, SIGNATURE
from serve.codec.provenance import SOFTWARE, TEXT_KEYWORD, XMP_KEYWORD, Note
from serve.types import OutputFormat, Pixels

FULL_CHROMA_QUALITY = 90
"""JPEG quality from which colour keeps its full resolution (4:4:4)."""

_UP = 2
_LEVEL = 1


def encode(pixels: Pixels, output_format: OutputFormat, compression: int, note: Note | None = None) -> bytes:
    """The file of a picture (H, W, 3). compression: `output_compression`, 0 to 100, where 100 is the best quality.

    png is always exact and does not read it. jpeg takes it as its quality. webp takes it as its quality below 100, and
    is lossless at 100. note: what the file tells of its making; it changes no pixel.
    """
    about = {} if note is None else {"exif": note.exif(), "xmp": note.xmp.encode()}
    match output_format:
        case "png":
            return _png(pixels, note)
        case "jpeg":
            subsampling = "4:4:4" if compression >= FULL_CHROMA_QUALITY else "4:2:0"
            return _by_pillow(pixels, "JPEG", quality=max(compression, 1), subsampling=subsampling, **about)
        case "webp" if compression == 100:
            return _by_pillow(pixels, "WEBP", lossless=True, quality=0, method=0, **about)
        case "webp":
            return _by_pillow(pixels, "WEBP", quality=compression, method=2, **about)


def _png(pixels: Pixels, note: Note | None) -> bytes:
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    data = isal_zlib.compress(_filtered(pixels), _LEVEL)
    return SIGNATURE + _chunk(b"IHDR", header) + _texts(note) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _texts(note: Note | None) -> bytes:
    """Before the pixels, where a reader of the first bytes finds them."""
    if note is None:
        return b""
    texts = {"Software": SOFTWARE, TEXT_KEYWORD: note.parameters}
    chunks = b"".join(_chunk(b"tEXt", f"{keyword}\0{text}".encode("ascii")) for keyword, text in texts.items())
    # iTXt: the keyword, then no compression, no language and no translated keyword, then UTF-8.
    return chunks + (_chunk(b"iTXt", f"{XMP_KEYWORD}\0\0\0\0\0{note.xmp}".encode()) if note.xmp else b"")


def _filtered(pixels: Pixels) -> Pixels:
    """(H, 1 + 3 W): each row's difference from the row above, after the byte that names this filter.

    Up is the one predictive filter that is a single subtraction over the picture, and photos compress nearly as well
    with it as with a choice per row.
    """
    rows = pixels.reshape(pixels.shape[0], -1)
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = isal_zlib.crc32(body, isal_zlib.crc32(name))
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def _by_pillow(pixels: Pixels, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, **options)
    return file.getvalue()
