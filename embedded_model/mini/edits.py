"""Every edit of a whole picture, in one table, and what applies them to batches."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from embedded_model.mini.geometry import GEOMETRY
from embedded_model.mini.styles import STYLES
from embedded_model.mini.tones import TONES, Edit
from embedded_model.mini.weather import WEATHER

IDENTITY = "identity"

EDITS: Mapping[str, Edit] = MappingProxyType({**TONES, **STYLES, **WEATHER, **GEOMETRY})


def apply(pictures: Tensor, names: Sequence[str]) -> Tensor:
    """All pictures (B, 3, H, W) after the named edits, one after the other."""
    for name in names:
        if name != IDENTITY:
            pictures = EDITS[name](pictures).clamp(0, 1)  # rounding may leave the range, where powers are undefined
    return pictures


def apply_each(pictures: Tensor, names: Sequence[str]) -> Tensor:
    """Picture i after the edit names[i]; the work is one pass for each name that occurs."""
    edited = torch.empty_like(pictures)
    for name in dict.fromkeys(names):
        rows = torch.tensor([i for i, other in enumerate(names) if other == name], device=pictures.device)
        edited[rows] = apply(pictures[rows], [name])
    return edited
