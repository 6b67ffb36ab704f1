"""Edits of weather and light. Every edit takes and returns pictures (B, 3, H, W) in [0, 1].

Where fog is dense, and where the sun is, depends on the position on the canvas; snowflakes have a size in pixels.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from embedded_model.mini.filters import along, luma, positions, rgb
from embedded_model.mini.tones import Edit, raise_contrast, scale_saturation

FLAKES_SIDE_PX = 128  # the texture repeats after so many pixels
FLAKES: tuple[tuple[int, float, float], ...] = (
    (60, 1.1, 0.75),
    (26, 2.0, 0.95),
    (8, 3.4, 1.0),
)  # how many, radius, opacity


def night(pictures: Tensor) -> Tensor:
    return (pictures + luma(pictures)) / 2 * rgb((0.20, 0.30, 0.58), pictures)


def fog(pictures: Tensor) -> Tensor:
    """Pale grey, dense above and thinner below."""
    _, y = positions(pictures)
    density = 0.82 - 0.34 * y
    faded = scale_saturation(pictures, 0.6)
    return torch.lerp(faded, rgb((0.83, 0.85, 0.87), pictures).expand_as(faded), density)


def snow(pictures: Tensor) -> Tensor:
    """A pale, cold picture behind falling flakes."""
    pale = scale_saturation(pictures, 0.55) * rgb((0.62, 0.65, 0.70), pictures) + rgb((0.22, 0.24, 0.27), pictures)
    height, width = pictures.shape[-2:]
    flakes = _flakes(pictures.device).to(pictures.dtype)
    repeats = (-(-height // FLAKES_SIDE_PX), -(-width // FLAKES_SIDE_PX))
    return pale + (1 - pale) * flakes.repeat(repeats)[:height, :width]


def sunset(pictures: Tensor) -> Tensor:
    """A violet sky above, a glow of orange two thirds down, dusk below."""
    _, y = positions(pictures)
    light = along(
        y,
        (0.0, 0.35, 0.65, 1.0),
        ((0.62, 0.34, 0.68), (1.05, 0.48, 0.42), (1.25, 0.72, 0.22), (0.62, 0.30, 0.22)),
    )
    glow = along(y, (0.0, 0.65, 1.0), ((0.08, 0.0, 0.10), (0.30, 0.12, 0.0), (0.04, 0.0, 0.02)))
    muted = scale_saturation(raise_contrast(pictures, 2.0), 0.5)
    return (muted * light + glow * (1 - muted)).clamp(0, 1)


def vignette(pictures: Tensor) -> Tensor:
    """Dark corners around a centre that stays as it is."""
    x, y = positions(pictures)
    distance = torch.hypot(2 * x - 1, 2 * y - 1)
    shade = ((distance - 0.45) / 0.85).clamp(0, 1)
    return pictures * (1 - 0.92 * shade * shade * (3 - 2 * shade))


@cache
def _flakes(device: torch.device) -> Tensor:
    """Opacity of round flakes that fall over a tile without a seam, (side, side)."""
    generator = torch.Generator().manual_seed(7)
    axis = torch.arange(FLAKES_SIDE_PX) + 0.5
    clear = torch.ones(FLAKES_SIDE_PX, FLAKES_SIDE_PX)
    for count, radius_px, opacity in FLAKES:
        centres = torch.rand(count, 2, generator=generator) * FLAKES_SIDE_PX
        apart = (axis - centres[..., None]).abs()
        apart = torch.minimum(apart, FLAKES_SIDE_PX - apart)  # around the tile's edge
        distance = torch.hypot(apart[:, 0, None, :], apart[:, 1, :, None])
        flakes = opacity * (1 - (distance - radius_px + 0.7) / 1.4).clamp(0, 1)
        clear = clear * (1 - flakes).prod(dim=0)
    return (1 - clear).to(device)


WEATHER: Mapping[str, Edit] = MappingProxyType(
    {"night": night, "fog": fog, "snow": snow, "sunset": sunset, "vignette": vignette}
)
