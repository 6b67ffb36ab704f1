"""Edits of colour, light and sharpness. Every edit takes and returns pictures (B, 3, H, W) in [0, 1].

Curves are smooth rather than clipped where possible.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from embedded_model.mini.filters import RGB, blur, luma, rgb

Edit = Callable[[Tensor], Tensor]

BLUR_SIGMA_PX = 3.0

TINTS: Mapping[str, RGB] = MappingProxyType(
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


def black_and_white(pictures: Tensor) -> Tensor:
    return luma(pictures).expand_as(pictures)


def sepia(pictures: Tensor) -> Tensor:
    return luma(pictures) * rgb((0.92, 0.80, 0.58), pictures) + rgb((0.08, 0.04, 0.01), pictures)


def invert(pictures: Tensor) -> Tensor:
    return 1 - pictures


def scale_saturation(pictures: Tensor, factor: float) -> Tensor:
    grey = luma(pictures)
    return (grey + factor * (pictures - grey)).clamp(0, 1)


def lift(pictures: Tensor, exponent: Tensor | float) -> Tensor:
    """Raises the mid-tones without clipping the highlights; the slope at black is `exponent`."""
    return 1 - (1 - pictures) ** exponent


def darken(pictures: Tensor, factor: float) -> Tensor:
    return pictures * factor


def warm(pictures: Tensor) -> Tensor:
    return lift(pictures, rgb((1.45, 1.05, 1.0), pictures)) * rgb((1.0, 1.0, 0.62), pictures)


def cool(pictures: Tensor) -> Tensor:
    return lift(pictures, rgb((1.0, 1.05, 1.45), pictures)) * rgb((0.62, 0.97, 1.0), pictures)


def raise_contrast(pictures: Tensor, slope: float) -> Tensor:
    """An S-curve through black, mid-grey and white."""
    curve = torch.tanh(slope * (pictures - 0.5)) / math.tanh(slope / 2)
    return 0.5 + 0.5 * curve


def tint(pictures: Tensor, colour: RGB, amount: float = 0.55) -> Tensor:
    """Washes pictures in a colour, lighter where they are lighter."""
    wash = (0.3 + 0.7 * luma(pictures)) * rgb(colour, pictures)
    return ((1 - amount) * pictures + amount * wash).clamp(0, 1)


TONES: Mapping[str, Edit] = MappingProxyType(
    {
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
        "blur": partial(blur, sigma_px=BLUR_SIGMA_PX),
    }
    | {f"tint_{name}": partial(tint, colour=colour) for name, colour in TINTS.items()}
)

EXAGGERATED = frozenset(
    {"brighter", "warmer", "cooler", "saturated", "high_contrast", *(f"tint_{name}" for name in TINTS)}
)
"""Edits of which there can be more than all: twice "darker" is black, and twice "black and white" has colours again."""
