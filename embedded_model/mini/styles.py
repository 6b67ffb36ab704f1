"""Edits that redraw a picture in a style. Every edit takes and returns pictures (B, 3, H, W) in [0, 1].

Strokes, dabs and blocks have a size in pixels, whatever the size of the canvas.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from embedded_model.mini.filters import blur, kuwahara, luma, rgb, shifted_down_right
from embedded_model.mini.tones import Edit, scale_saturation

BLOCK_PX = 16
POSTER_LEVELS = 4
CARTOON_LEVELS = 6


def pencil(pictures: Tensor) -> Tensor:
    """Grey strokes on paper: what is darker than its surroundings, over a faint shade of what is dark."""
    grey = luma(pictures)
    strokes = (grey / (blur(grey, 2.5) + 0.02)).clamp(0, 1) ** 4
    shade = 0.62 + 0.38 * blur(grey, 1.0).clamp(0, 1) ** 0.6
    return strokes * shade * rgb((1.0, 0.99, 0.96), pictures)


def poster(pictures: Tensor) -> Tensor:
    """Flat areas of few, strong colours."""
    strong = scale_saturation(blur(pictures, 1.5), 1.6)
    return _steps(strong, POSTER_LEVELS)


def pixelated(pictures: Tensor) -> Tensor:
    blocks = functional.avg_pool2d(pictures, BLOCK_PX)
    return functional.interpolate(blocks, scale_factor=BLOCK_PX, mode="nearest")


def oil(pictures: Tensor) -> Tensor:
    """Flat dabs of rich colour, lit from the top left as thick paint is."""
    dabs = kuwahara(kuwahara(pictures, 4), 3)
    relief = luma(dabs) - luma(shifted_down_right(dabs, 1))
    return scale_saturation((dabs - 0.35 * relief).clamp(0, 1), 1.35)


def cartoon(pictures: Tensor) -> Tensor:
    """Flat, bright colours with black outlines."""
    flat = kuwahara(pictures, 3)
    grey = luma(flat)
    stepped = flat * (_steps(grey, CARTOON_LEVELS) + 0.06) / (grey + 0.06)
    soft = blur(luma(pictures), 1.0)
    lines = ((blur(soft, 1.6) - soft) * 22 - 0.25).clamp(0, 1)
    return scale_saturation(stepped.clamp(0, 1), 1.7) * (1 - lines)


def emboss(pictures: Tensor) -> Tensor:
    """A grey relief, lit from the top left."""
    grey = blur(luma(pictures), 0.7)
    relief = 0.5 + 1.6 * (grey - shifted_down_right(grey, 2))
    return relief.clamp(0, 1).expand_as(pictures)


def _steps(values: Tensor, levels: int) -> Tensor:
    return torch.round(values * (levels - 1)) / (levels - 1)


STYLES: Mapping[str, Edit] = MappingProxyType(
    {"pencil": pencil, "poster": poster, "pixelated": pixelated, "oil": oil, "cartoon": cartoon, "emboss": emboss}
)
