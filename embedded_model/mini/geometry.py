"""Edits that turn a whole picture. Every edit takes and returns pictures (B, 3, H, W)."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from embedded_model.mini.tones import Edit


def mirror(pictures: Tensor) -> Tensor:
    """Left becomes right."""
    return pictures.flip(-1)


def upside_down(pictures: Tensor) -> Tensor:
    """Turned by 180 degrees, as a print is turned upside down on a table: left and right change too."""
    return pictures.flip(-1, -2)


GEOMETRY: Mapping[str, Edit] = MappingProxyType({"mirror": mirror, "upside_down": upside_down})
