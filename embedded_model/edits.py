"""The edits the embedded model is taught, as functions of float pictures, in one table.

Every function takes and returns float32 pictures (..., H, W, 3) in [0, 1]. Curves are smooth rather than clipped where
possible, because the model describes an edit by local colour transforms.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Edit = Callable[[Picture], Picture]

IDENTITY = "identity"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BLUR_SIGMA_PX = 3.0

TINTS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.90, 0.10, 0.12),
        "orange": (1.00, 0.55, 0.08),
        "yellow": (0.97, 0.92, 0.15),
        "green": (0.12, 0.75, 0.22),
        "cyan": (0.10, 0.80, 0.82),
        "blue": (0.12, 0.25, 0.95),
        "purple": (0.52, 0.15, 0.85),
        "pink": (1.00, 0.45, 0.75),
    }
)


def luma(picture: Picture) -> Picture:
    """Brightness as the eye weighs it, (..., H, W, 1)."""
    return (picture @ LUMA)[..., None]


def identity(picture: Picture) -> Picture:
    return picture


def black_and_white(picture: Picture) -> Picture:
    return np.repeat(luma(picture), 3, axis=-1)


def sepia(picture: Picture) -> Picture:
    return luma(picture) * _rgb(0.92, 0.80, 0.58) + _rgb(0.08, 0.04, 0.01)


def invert(picture: Picture) -> Picture:
    return 1 - picture


def scale_saturation(picture: Picture, factor: Picture | float) -> Picture:
    grey = luma(picture)
    return _clipped(grey + factor * (picture - grey))


def lift(picture: Picture, exponent: Picture | float) -> Picture:
    """Raises the mid-tones without clipping the highlights; the slope at black is `exponent`."""
    return (1 - (1 - picture) ** exponent).astype(np.float32, copy=False)


def darken(picture: Picture, factor: float) -> Picture:
    return picture * np.float32(factor)


def warm(picture: Picture) -> Picture:
    return lift(picture, _rgb(1.45, 1.05, 1.0)) * _rgb(1.0, 1.0, 0.62)


def cool(picture: Picture) -> Picture:
    return lift(picture, _rgb(1.0, 1.05, 1.45)) * _rgb(0.62, 0.97, 1.0)


def raise_contrast(picture: Picture, slope: float) -> Picture:
    """An S-curve through black, mid-grey and white."""
    curve = np.tanh(slope * (picture - np.float32(0.5))) / np.tanh(slope / 2)
    return (0.5 + 0.5 * curve).astype(np.float32)


def night(picture: Picture) -> Picture:
    return (picture + luma(picture)) / np.float32(2) * _rgb(0.20, 0.30, 0.58)


def blur(picture: Picture, sigma_px: float) -> Picture:
    """A Gaussian blur; the picture is mirrored at its edges."""
    radius = int(3 * sigma_px)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma_px) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (-3, -2):
        margins = [(0, 0)] * picture.ndim
        margins[axis] = (radius, radius)
        padded = np.pad(picture, margins, mode="reflect")
        size = picture.shape[axis]
        picture = np.zeros_like(picture)
        for start, weight in enumerate(kernel):
            picture += np.float32(weight) * np.take(padded, range(start, start + size), axis=axis)
    return picture


def tint(picture: Picture, colour: tuple[float, float, float], amount: float = 0.55) -> Picture:
    """Washes the picture in a colour, lighter where the picture is lighter."""
    wash = (0.3 + 0.7 * luma(picture)) * _rgb(*colour)
    return _clipped((1 - amount) * picture + amount * wash)


def _clipped(picture: NDArray[np.floating]) -> Picture:
    return np.clip(picture, 0, 1).astype(np.float32, copy=False)


def _rgb(red: float, green: float, blue: float) -> Picture:
    return np.array([red, green, blue], np.float32)


EDITS: Mapping[str, Edit] = MappingProxyType(
    {
        IDENTITY: identity,
        "black_and_white": black_and_white,
        "sepia": sepia,
        "invert": invert,
        "brighter": partial(lift, exponent=2.0),
        "darker": partial(darken, factor=0.5),
        "warmer": warm,
        "cooler": cool,
        "saturated": partial(scale_saturation, factor=2.0),
        "desaturated": partial(scale_saturation, factor=0.4),
        "high_contrast": partial(raise_contrast, slope=3.6),
        "night": night,
        "blur": partial(blur, sigma_px=BLUR_SIGMA_PX),
    }
    | {f"tint_{name}": partial(tint, colour=colour) for name, colour in TINTS.items()}
)


def apply(picture: Picture, names: Sequence[str]) -> Picture:
    """The picture after the named edits, one after the other."""
    for name in names:
        picture = _clipped(EDITS[name](picture))  # rounding may leave the range, where powers are undefined
    return picture
