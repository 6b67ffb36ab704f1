"""The pictures and masks that a client sends: which are accepted, and their pixels as everything after takes them."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from serve.codec import photo, png
from serve.codec.base64 import ONLY_PNG, accepted
from serve.codec.blend import divide_255, over_white
from serve.errors import (
    InvalidImage,
    InvalidRequest,
    MaskSizeMismatch,
    Overloaded,
    TooManyPixels,
    UnsupportedImageFormat,
)
from serve.types import PictureFormat, Pixels, Size

MaskMode = Literal["luma", "alpha", "auto"]

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypavis", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftyphev", "a HEIC"),
    (4, b"ftypmif1", "a HEIF"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\x8aMNG", "an MNG"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"iVBORw0KGgo", "base64 text, so it was encoded twice"),
)
"""Offset, bytes and name of what clients send instead of a PNG."""

_PHOTOS: Mapping[str, PictureFormat] = {"a JPEG": "jpeg", "a WebP": "webp"}


def decode_picture(data: bytes, param: str, max_pixels: int, formats: Sequence[PictureFormat] = ONLY_PNG) -> Pixels:
    """(H, W, 3) of a picture in one of the formats, upright by its EXIF orientation.

    Transparency lies over white, and 16 bits are rounded to 8.
    An animated PNG is its default image, an animated WebP its first. Colour profiles and gamma are not applied:
    samples are taken as sRGB.
    Raises UnsupportedImageFormat, TooManyPixels (by the header, before anything is decompressed), InvalidImage.
    """
    raster = _read(data, param, max_pixels, formats)
    colour = raster.colour if raster.alpha is None else over_white(raster.colour, raster.alpha)
    return _upright(_as_rgb(colour), raster.orientation)


def decode_mask(data: bytes, mode: MaskMode, size: Size, max_pixels: int, param: str = "mask") -> Pixels:
    """(H, W) of a mask PNG, 255 where the model edits. size: of images[0], upright; the mask's must be the same.

    luma: ITU-R 601 luminance, white edits; transparency counts as black, so that strokes painted on a transparent
    layer edit what they cover. alpha: transparent edits, colours do not matter. auto: alpha where any pixel is not
    fully opaque, luma otherwise. Raises what `decode_picture` does, MaskSizeMismatch, and InvalidRequest for mode
    alpha and a mask without transparency.
    """
    raster = _read(data, param, max_pixels, ONLY_PNG)
    mask = _upright(_polarity(raster, mode, param), raster.orientation)
    found: Size = (mask.shape[1], mask.shape[0])
    if found != size:
        raise MaskSizeMismatch(
            f"{param} is {found[0]}x{found[1]} and images[0] is {size[0]}x{size[1]}; a mask has the size of images[0]",
            param=param,
        )
    return mask


def _read(data: bytes, param: str, max_pixels: int, formats: Sequence[PictureFormat]) -> png.Raster:
    def check(size: Size) -> None:
        width, height = size
        if width * height > max_pixels:
            message = f"{param} is {width}x{height}; at most {_megapixels(max_pixels)} are accepted"
            raise TooManyPixels(message, param=param)

    kind = "a PNG" if data.startswith(png.SIGNATURE) else _kind(data)
    read_as = "png" if kind == "a PNG" else _PHOTOS.get(kind)
    if read_as is None or read_as not in formats:
        raise _unread(data, kind, param, formats)
    try:
        if read_as != "png":
            return photo.read(data, read_as, check)
        header = png.read_header(data)
        check((header.width, header.height))
        return png.read(data, header)
    except (png.BrokenPNG, photo.BrokenPhoto) as error:
        raise InvalidImage(f"{param} is {kind.replace('a ', 'a damaged ')}: {error}", param=param) from None
    except MemoryError:
        raise Overloaded(f"there is no memory left to decode {param}", param=param) from None


def _unread(
    data: bytes, kind: str, param: str, formats: Sequence[PictureFormat]
) -> InvalidImage | UnsupportedImageFormat:
    if not data:
        return InvalidImage(f"{param} is empty; {accepted(formats)}", param=param)
    if kind != "a PNG" and (png.SIGNATURE.startswith(data[:8]) or data.startswith(b"\x89PNG")):
        return InvalidImage(f"{param} is a damaged PNG: its first bytes are cut off or changed", param=param)
    return UnsupportedImageFormat(f"{param} is {kind}; {accepted(formats)}", param=param)


def _kind(data: bytes) -> str:
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if b"<svg" in start:
        return "an SVG"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "text and no picture"
    return "no picture of a known format"


def _polarity(raster: png.Raster, mode: MaskMode, param: str) -> Pixels:
    alpha = raster.alpha
    if mode == "alpha" and alpha is None:
        raise InvalidRequest(
            f'{param} has no transparency; with mask_mode "alpha" the transparent pixels are the edited ones',
            param=param,
        )
    if alpha is not None and (mode == "alpha" or (mode == "auto" and bool((alpha != 255).any()))):
        return 255 - alpha
    luma = _luma(raster.colour)
    return luma if alpha is None else divide_255(luma.astype(np.uint16) * alpha)


def _luma(colour: Pixels) -> Pixels:
    if colour.shape[2] == 1:
        return colour[..., 0]
    return np.asarray(Image.fromarray(np.ascontiguousarray(colour)).convert("L"))


def _as_rgb(colour: Pixels) -> Pixels:
    return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 2, 4, 5 and 7 are mirrored; 3, 6 and 8 turned by 180, 90 and 270 degrees."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _megapixels(count: int) -> str:
    return f"{count / 1e6:g} megapixels" if count >= 100_000 else f"{count} pixels"
