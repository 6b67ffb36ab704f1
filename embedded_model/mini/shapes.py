"""The shapes that are drawn, as signed distances: negative inside, in units of the shape's radius.

Each takes coordinates around the shape's middle, x to the right and y down, and fits into the circle of radius 1.
Star and heart after Inigo Quilez, https://iquilezles.org/articles/distfunctions2d/.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.92


def square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x.abs(), y.abs(), 0.78, 0.78)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    y = y - 0.2
    sides = math.sqrt(0.75) * x.abs() - 0.5 * y - 0.56
    return torch.maximum(sides, y - 0.56)


def star(x: Tensor, y: Tensor, depth: float = 0.45) -> Tensor:
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    x, y = x.abs(), -y - 0.05
    beyond = 2 * (cos * x - sin * y).clamp(min=0)
    x, y = x - beyond * cos, y + beyond * sin
    beyond = 2 * (-cos * x - sin * y).clamp(min=0)
    x, y = (x + beyond * cos).abs(), y + beyond * sin - 1
    edge_x, edge_y = depth * sin, depth * cos - 1
    along = ((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
    return torch.hypot(x - edge_x * along, y - edge_y * along) * torch.sign(y * edge_x - x * edge_y)


def heart(x: Tensor, y: Tensor, scale: float = 0.64) -> Tensor:
    x, y = (x * scale).abs(), 0.56 - y * scale
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    diagonal = 0.5 * (x + y).clamp(min=0)
    nearest = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - diagonal, y - diagonal))
    return torch.where(x + y > 1, lobe, nearest * torch.sign(x - y)) / scale


def diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() + 0.66 * y.abs() - 0.66) / math.hypot(1, 0.66)


def cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.minimum(_box(x, y, 0.92, 0.3), _box(x, y, 0.3, 0.92))


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.7).abs() - 0.22


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    x, y = x - half_width, y - half_height
    return torch.hypot(x.clamp(min=0), y.clamp(min=0)) + torch.maximum(x, y).clamp(max=0)


SHAPES: Mapping[str, Distance] = MappingProxyType(
    {
        "circle": circle,
        "square": square,
        "triangle": triangle,
        "star": star,
        "heart": heart,
        "diamond": diamond,
        "cross": cross,
        "ring": ring,
    }
)
