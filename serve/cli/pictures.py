"""Pictures from the user's disk as the API takes them: PNG of at most 4 MiB. What was changed is told, never hidden."""

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from serve.cli.console import Exit, Failure

MAX_BYTES = 4 * 2**20
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_LEVEL = 3
"""zlib's: a third of the default's time on photographs, and files a few per cent larger."""

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, slots=True)
class Sendable:
    """png: the file to send. changed: what was done to it, empty for the user's own bytes.

    reduced: the upright picture's size on disk and as sent, where they differ.
    """

    png: bytes
    changed: str = ""
    reduced: tuple[Size, Size] | None = None


def read_picture(path: Path) -> Sendable:
    """The picture at `path`, converted and reduced where the API needs it. Raises Failure."""
    data = _read(path)
    if _fits(data):
        return Sendable(data)
    picture, kind = _decode(path, data)
    sent, png = _fit(picture)
    if sent.size == picture.size:
        return Sendable(png, f"{path} is {kind}; it is sent as PNG")
    changed = f"{path} is a {kind} of {_by(picture.size)}; it is sent as PNG of {_by(sent.size)}, to fit in 4 MiB"
    return Sendable(png, changed, (picture.size, sent.size))


def read_mask(path: Path, source: Sendable) -> Sendable:
    """The mask at `path`, converted where the API needs it and reduced exactly as its source was. Raises Failure."""
    data = _read(path)
    if source.reduced is None and _fits(data):
        return Sendable(data)
    mask, kind = _decode(path, data)
    changed = f"{path} is {kind}; it is sent as PNG"
    if source.reduced is not None:
        original, sent = source.reduced
        if mask.size != original:
            raise Failure(f"{path} is {_by(mask.size)}; a mask has its photo's size, {_by(original)}", Exit.USAGE)
        mask = mask.resize(sent, Image.Resampling.BILINEAR)
        changed = f"{path} is sent as PNG of {_by(sent)}, like its photo"
    png = _png(mask)
    if len(png) > MAX_BYTES:
        raise Failure(f"{path} takes {len(png) / 2**20:.1f} MiB as PNG; a mask may take at most 4 MiB", Exit.USAGE)
    return Sendable(png, changed)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", Exit.USAGE) from None


def _fits(data: bytes) -> bool:
    return data.startswith(PNG_SIGNATURE) and len(data) <= MAX_BYTES


def _decode(path: Path, data: bytes) -> tuple[Image.Image, str]:
    """The picture, upright and in a mode that scales and saves as PNG, and its format's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            return _plain(ImageOps.exif_transpose(picture)), picture.format or "picture"
    except Image.DecompressionBombError:
        raise Failure(f"{path} has too many pixels to be opened here", Exit.USAGE) from None
    except (OSError, ValueError, SyntaxError):
        raise Failure(f"{path} is no picture that can be read; PNG, JPEG and WebP can", Exit.USAGE) from None


def _plain(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda level: level * (255 / 65535)).convert("L")
    if picture.mode in ("L", "LA", "RGB", "RGBA"):
        return picture
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _fit(picture: Image.Image) -> tuple[Image.Image, bytes]:
    png = _png(picture)
    sent = picture
    while len(png) > MAX_BYTES:
        factor = 0.97 * math.sqrt(MAX_BYTES / len(png))
        smaller = max(1, int(sent.width * factor)), max(1, int(sent.height * factor))
        sent = picture.resize(smaller, Image.Resampling.LANCZOS)
        png = _png(sent)
    return sent, png


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
