"""Groups of edits under a mask: damage that is repaired, and edits of a part of the picture."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from embedded_model.mini.batch import Pairs
from embedded_model.mini.edits import apply_each
from embedded_model.mini.filters import positions
from embedded_model.mini.object_words import repair
from embedded_model.mini.picture_groups import some_as_scenes
from embedded_model.mini.scenes import COLOURS
from embedded_model.mini.words import in_mask

DAMAGES = ("grey", "noise", "shape")
MARGIN_PX = 4  # of the mask around the damage
WAVES = (2, 3, 4)  # of a blob's outline, around it
WAVE_HEIGHT = 0.16
IN_THE_MASK = " in the mask"
"""Ends the names of edits of a part of the picture."""


@dataclass(frozen=True)
class Repairs:
    """A part of the photograph is destroyed; the target is the photograph."""

    weight: float

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        region = regions(photographs, generator, 0.08, 0.26)
        damages = words.choices(DAMAGES, k=len(photographs))
        colours = words.choices(tuple(COLOURS), k=len(photographs))
        damaged = torch.where(region > 0, _damage(photographs, damages, colours, generator), photographs)
        asked = tuple(
            repair(damage, words, colour=colour, held_out=held_out)
            for damage, colour in zip(damages, colours, strict=True)
        )
        return Pairs(damaged, photographs, asked, tuple(f"repair {d}" for d in damages), mask=grown(region, MARGIN_PX))


@dataclass(frozen=True)
class InMask:
    """An edit of the part that the mask allows; the rest of the target is the source."""

    weight: float
    names: Sequence[str]

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        source = some_as_scenes(photographs, words)
        mask = regions(source, generator, 0.2, 0.45)
        names = words.choices(self.names, k=len(source))
        target = torch.where(mask > 0, apply_each(source, names), source)
        asked = tuple(in_mask(name, words, held_out=held_out) for name in names)
        return Pairs(source, target, asked, tuple(name + IN_THE_MASK for name in names), mask=mask)


def regions(pictures: Tensor, generator: torch.Generator, least: float, most: float) -> Tensor:
    """A rectangle, an ellipse or a blob in each picture, (B, 1, H, W) of 0 and 1.

    Half its width is `least` to `most` of the canvas's, and so is its height.
    """
    count = len(pictures)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, 1, 1, generator=generator, device=pictures.device, dtype=pictures.dtype)
        return low + (high - low) * drawn

    x, y = positions(pictures)
    x = (x - uniform(0.15, 0.85)) / uniform(least, most)
    y = (y - uniform(0.15, 0.85)) / uniform(least, most)
    angle, radius = torch.atan2(y, x), torch.hypot(x, y)
    phases = uniform(0, 2 * torch.pi, len(WAVES))
    waves = sum((torch.cos(k * angle + phases[:, i]) for i, k in enumerate(WAVES)), torch.zeros_like(angle))
    kind = torch.randint(3, (count, 1, 1), generator=generator, device=pictures.device)
    level = torch.where(kind == 0, torch.maximum(x.abs(), y.abs()), radius)
    level = torch.where(kind == 2, radius - WAVE_HEIGHT * waves, level)
    return (level < 1)[:, None].to(pictures.dtype)


def grown(mask: Tensor, margin_px: int) -> Tensor:
    return functional.max_pool2d(mask, 2 * margin_px + 1, stride=1, padding=margin_px)


def _damage(pictures: Tensor, damages: Sequence[str], colours: Sequence[str], generator: torch.Generator) -> Tensor:
    """What the pictures (B, 3, H, W) show where they are damaged."""
    device, dtype = pictures.device, pictures.dtype
    noise = torch.rand(pictures.shape, generator=generator, device=device, dtype=dtype)
    grey = 0.35 + 0.3 * torch.rand(len(pictures), 1, 1, 1, generator=generator, device=device, dtype=dtype)
    paint = pictures.new_tensor([COLOURS[colour] for colour in colours])[:, :, None, None]
    kind = torch.tensor([DAMAGES.index(d) for d in damages], device=device)[:, None, None, None]
    return torch.where(kind == 0, grey, torch.where(kind == 1, noise, paint))
