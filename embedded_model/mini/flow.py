"""What the transformer learns to say: the velocity from a picture to noise (Liu et al. 2022), an edit's included.

A strength of s starts from the source's own latents at the noise level s. Where the whole edit's latents are told to be
the end, Euler's steps down to no noise add just the part s of the edit. So some noisy latents of the training show a
part of the edit, with the whole as the end all the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PURE_NOISE = 0.5
"""Share of rows at noise level 1, where every whole edit begins and most of it is decided."""
PARTIAL = 0.25
"""Share of the rows of a gradual edit that show a part of it."""
LEAST_SIGMA = 0.02
MAX_GUIDANCE = 8.0
EXAGGERATION = 0.5
"""What the most guidance adds to a change."""


@dataclass(frozen=True)
class Drawn:
    """Random numbers of a batch, each (B,): the noise level, and which part of the edit is shown (1: all of it)."""

    sigma: Tensor
    shown: Tensor


def draw(rows: int, gradual: Tensor, generator: torch.Generator) -> Drawn:
    """gradual: (B,) bool, whether a part of the row's edit makes sense."""
    pure, level, partial, part = torch.rand((4, rows), generator=generator, device=generator.device)
    shown = torch.where(gradual & (partial < PARTIAL), 0.9 * part, 1.0)
    level = LEAST_SIGMA + (1 - LEAST_SIGMA) * level.sqrt()  # less often where there is hardly noise, and little to see
    sigma = torch.where((pure < PURE_NOISE) & (shown == 1), 1.0, level)
    return Drawn(sigma, shown)


def noisy_and_velocity(source: Tensor, target: Tensor, noise: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) at the drawn level, and their velocity: the noise less the whole edit's latents."""
    sigma, shown = (x[:, None, None, None] for x in (drawn.sigma, drawn.shown))
    return torch.lerp(torch.lerp(source, target, shown), noise, sigma), noise - target


def guided(source: Tensor, target: Tensor, guidance: Tensor) -> Tensor:
    """The edit as guidance exaggerates it: pixels in [0, 1]; 1 is the edit itself, MAX_GUIDANCE half as much again.

    Classifier-free guidance (Ho and Salimans 2022) goes away from what no instruction would give, here the source.
    """
    weight = 1 + EXAGGERATION * (guidance - 1) / (MAX_GUIDANCE - 1)
    return torch.lerp(source, target, weight[:, None, None, None]).clamp(0, 1)
