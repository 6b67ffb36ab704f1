"""Drawn scenes: a ground and objects in the nine cells of a grid over the canvas, at most one in each.

`Object` and `Ground` describe one scene in words and numbers; `Scene` holds a batch of them as tensors, for `draw`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from embedded_model.mini.filters import RGB, pixel_centres
from embedded_model.mini.shapes import SHAPES

COLOURS: Mapping[str, RGB] = MappingProxyType(
    {
        "red": (0.87, 0.10, 0.12),
        "orange": (1.00, 0.55, 0.05),
        "yellow": (0.98, 0.88, 0.12),
        "green": (0.12, 0.62, 0.22),
        "cyan": (0.15, 0.82, 0.86),
        "blue": (0.12, 0.26, 0.90),
        "purple": (0.50, 0.16, 0.74),
        "pink": (1.00, 0.52, 0.76),
        "brown": (0.44, 0.26, 0.12),
        "black": (0.04, 0.04, 0.05),
        "white": (0.97, 0.97, 0.97),
        "grey": (0.50, 0.50, 0.51),
    }
)
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
RADII: Mapping[str, float] = MappingProxyType({"small": 0.25, "big": 0.43})  # of a cell's shorter side
GROUNDS = ("plain", "gradient", "stripes", "checker", "photograph")
EMPTY = -1

_SHAPE_NAMES, _COLOUR_NAMES = tuple(SHAPES), tuple(COLOURS)


@dataclass(frozen=True)
class Object:
    """One drawn object; `offset` (x, y) is its distance from the middle of its place, in shorter sides of a cell."""

    shape: str
    colour: str
    place: str
    size: str = "big"
    offset: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        size = "small " if self.size == "small" else ""
        return f"{size}{self.colour} {self.shape} at {self.place}"


@dataclass(frozen=True)
class Ground:
    """What objects are drawn on: a colour, or a pattern of two, or the photograph that comes with the scene."""

    kind: str
    first: RGB = (0.5, 0.5, 0.5)
    second: RGB = (0.5, 0.5, 0.5)
    angle: float = 0.0  # radians; where a gradient leads, and across stripes
    period_px: float = 32.0


@dataclass(frozen=True)
class Scene:
    """A batch of scenes. Places count row by row from the top left; sizes are in shorter sides of a cell."""

    photographs: Tensor  # (B, 3, H, W)
    ground: Tensor  # (B,) index into GROUNDS
    colours: Tensor  # (B, 2, 3) of the ground
    waves: Tensor  # (B, 3): cosine and sine of the ground's angle, period in pixels
    shape: Tensor  # (B, 9) index into SHAPES, or EMPTY
    paint: Tensor  # (B, 9, 3) colours of the objects
    radius: Tensor  # (B, 9)
    offset: Tensor  # (B, 9, 2)


def scene(grounds: Sequence[Ground], objects: Sequence[Sequence[Object]], photographs: Tensor) -> Scene:
    """One scene of each ground with its objects, on the device of the photographs (B, 3, H, W)."""
    cells = [_cells(row) for row in objects]

    def tensor(values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=photographs.device)

    return Scene(
        photographs=photographs,
        ground=tensor([GROUNDS.index(g.kind) for g in grounds]).long(),
        colours=tensor([[g.first, g.second] for g in grounds]),
        waves=tensor([[math.cos(g.angle), math.sin(g.angle), g.period_px] for g in grounds]),
        shape=tensor([[_SHAPE_NAMES.index(o.shape) if o else EMPTY for o in row] for row in cells]).long(),
        paint=tensor([[COLOURS[o.colour] if o else (0.0, 0.0, 0.0) for o in row] for row in cells]),
        radius=tensor([[RADII[o.size] if o else 1.0 for o in row] for row in cells]),
        offset=tensor([[o.offset if o else (0.0, 0.0) for o in row] for row in cells]),
    )


def draw(drawn: Scene, size: tuple[int, int]) -> Tensor:
    """Pictures (B, 3, H, W) of the scenes at `size` (H, W); what no object covers is the ground, bit for bit."""
    return draw_objects(drawn, draw_ground(drawn, size))


def draw_objects(drawn: Scene, pictures: Tensor) -> Tensor:
    """The objects of the scenes over other pictures (B, 3, H, W)."""
    cover, paint = _objects(drawn, (pictures.shape[-2], pictures.shape[-1]))
    return torch.lerp(pictures, paint, cover)


def draw_ground(drawn: Scene, size: tuple[int, int]) -> Tensor:
    """The scenes without their objects."""
    height, width = size
    x, y = pixel_centres(size, drawn.waves)
    x, y = x - width / 2, y - height / 2
    cos, sin, period = drawn.waves[:, :, None, None].unbind(1)
    across, along = x * cos + y * sin, y * cos - x * sin
    sharp = period / (2 * math.pi)  # an edge is one pixel wide
    stripes, rungs = ((sharp * torch.sin(s / sharp)).clamp(-1, 1) for s in (across, along))
    reach = (cos.abs() * width + sin.abs() * height) / 2
    patterns = {"gradient": across / reach, "stripes": stripes, "checker": stripes * rungs}
    mix = torch.full_like(across, -1)
    for kind, pattern in patterns.items():
        mix = torch.where(_is(drawn, kind), pattern, mix)
    first, second = drawn.colours[:, :, :, None, None].unbind(1)
    pictures = torch.lerp(first, second, 0.5 + 0.5 * mix[:, None])
    return torch.where(_is(drawn, "photograph")[:, None], _resized(drawn.photographs, size), pictures)


def _objects(drawn: Scene, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How much of each pixel an object covers (B, 1, H, W), and its colour (B, 3, H, W).

    An object never leaves its cell, so that each pixel measures its distance to one object.
    """
    height, width = size
    x, y = pixel_centres(size, drawn.radius)
    column, row = (3 * x / width).long(), (3 * y / height).long()
    cell = 3 * row + column
    unit = min(size) / 3
    shape = drawn.shape[:, cell]
    radius = drawn.radius[:, cell] * unit
    offset = drawn.offset[:, cell] * unit
    u = (x - (column + 0.5) * width / 3 - offset[..., 0]) / radius
    v = (y - (row + 0.5) * height / 3 - offset[..., 1]) / radius
    distance = torch.full_like(u, math.inf)
    for index, name in enumerate(_SHAPE_NAMES):
        there = shape == index
        distance[there] = SHAPES[name](u[there], v[there])
    cover = (0.5 - distance * radius).clamp(0, 1)
    return cover[:, None], drawn.paint.transpose(1, 2)[:, :, cell]


def _cells(objects: Sequence[Object]) -> list[Object | None]:
    at = {o.place: o for o in objects}
    if len(at) != len(objects):
        raise ValueError(f"two objects at one place: {[str(o) for o in objects]}")
    return [at.get(place) for place in PLACES]


def _is(drawn: Scene, kind: str) -> Tensor:
    return (drawn.ground == GROUNDS.index(kind))[:, None, None]


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    if pictures.shape[-2:] == size:
        return pictures
    return functional.interpolate(pictures, size, mode="bilinear", antialias=True)
