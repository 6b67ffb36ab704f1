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
CARTOON_LEVELS = 5


def pencil(pictures: Tensor) -> Tensor:
    """Grey strokes on paper: what is darker than its surroundings, over a faint shade of what is dark."""
    grey = luma(pictures)
    strokes = ((grey + 0.03) / (blur(grey, 3.0) + 0.03)).clamp(0, 1) ** 4
    shade = 0.7 + 0.3 * blur(grey, 1.0) ** 0.6
    return strokes * shade * rgb((1.0, 0.99, 0.96), pictures)


def poster(pictures: Tensor) -> Tensor:
    """Flat areas of few, strong colours."""
    strong = scale_saturation(blur(pictures, 3.0), 1.6)
    return _steps(strong**0.8, POSTER_LEVELS)


def pixelated(pictures: Tensor) -> Tensor:
    blocks = functional.avg_pool2d(pictures, BLOCK_PX)
    return functional.interpolate(blocks, scale_factor=BLOCK_PX, mode="nearest")


def oil(pictures: Tensor) -> Tensor:
    """Flat dabs of rich colour, lit from the top left as thick paint is."""
    dabs = kuwahara(kuwahara(pictures, 6), 4)
    relief = luma(dabs) - luma(shifted_down_right(dabs, 2))
    return scale_saturation((dabs + 0.6 * relief).clamp(0, 1), 1.5)


def cartoon(pictures: Tensor) -> Tensor:
    """Flat, bright colours with black outlines."""
    flat = kuwahara(kuwahara(pictures, 3), 3)
    grey = blur(luma(flat), 1.5)
    lit = (_soft_steps(grey, CARTOON_LEVELS) * 1.1 + 0.08) / (grey + 0.08)
    outlined = luma(pictures + flat) / 2
    lines = (blur(outlined, 3.0) - blur(outlined, 0.8)) * 16 - 0.35
    return scale_saturation((flat * lit).clamp(0, 1), 1.8) * (1 - lines.clamp(0, 1))


def emboss(pictures: Tensor) -> Tensor:
    """A grey relief, lit from the top left."""
    grey = blur(luma(pictures), 0.7)
    relief = 0.5 + 1.6 * (grey - shifted_down_right(grey, 2))
    return relief.clamp(0, 1).expand_as(pictures)


def _soft_steps(values: Tensor, levels: int) -> Tensor:
    """Steps with slopes between them, which a little noise does not fray."""
    scaled = values * (levels - 1)
    within = scaled - torch.floor(scaled)
    return (torch.floor(scaled) + (6 * (within - 0.5) + 0.5).clamp(0, 1)) / (levels - 1)


def _steps(values: Tensor, levels: int) -> Tensor:
    return torch.round(values * (levels - 1)) / (levels - 1)


STYLES: Mapping[str, Edit] = MappingProxyType(
    {"pencil": pencil, "poster": poster, "pixelated": pixelated, "oil": oil, "cartoon": cartoon, "emboss": emboss}
)
