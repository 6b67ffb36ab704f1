"""What the transformer learns to say: the velocity from a picture to noise (Liu et al. 2022), an edit's included.

A strength of s starts from the source's own latents at the noise level s. Where the whole edit's latents are told to be
the end, Euler's steps down to no noise add just the part s of the edit. So some noisy latents of the training show a
part of the edit, with the whole as the end all the same.

What sampling meets does not lie between a picture and noise, but is what its own earlier steps came to, mistakes
included. So other noisy latents are where the network's own velocities lead from pure noise, and what is told is the
way from there to the edit (as in S. Ross et al. 2011, "A reduction of imitation learning").
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OWN = 0.25
"""Share of rows that are to be led to the edit from where the network's own first steps have come to."""
MOST_OWN_STEPS = 3
LEAST_OWN_SIGMA = 0.1
PURE_NOISE = 0.6
"""Share of the other rows at noise level 1, where every whole edit begins and most of it is decided."""
PARTIAL = 0.25
"""Share of the rows of a gradual edit that show a part of it."""
LEAST_SIGMA = 0.02
MAX_GUIDANCE = 8.0
EXAGGERATION = 0.5
"""What the most guidance adds to a change."""


@dataclass(frozen=True)
class Drawn:
    """Random numbers of a batch, each (B,): the noise level, which part of the edit is shown (1: all of it), and
    whether it is the network's own first steps that are."""

    sigma: Tensor
    shown: Tensor
    own: Tensor


def draw(rows: int, gradual: Tensor, generator: torch.Generator) -> Drawn:
    """gradual: (B,) bool, whether a part of the row's edit makes sense."""
    pure, level, partial, part, order = torch.rand((5, rows), generator=generator, device=generator.device)
    own = order.argsort() < int(rows * OWN + torch.rand((), generator=generator, device=generator.device))
    shown = torch.where(gradual & (partial < PARTIAL) & ~own, 0.9 * part, 1.0)
    level = LEAST_SIGMA + (1 - LEAST_SIGMA) * level.sqrt()  # less often where there is hardly noise, and little to see
    level = torch.where(own, level.clamp(min=LEAST_OWN_SIGMA), level)
    sigma = torch.where((pure < PURE_NOISE) & (shown == 1) & ~own, 1.0, level)
    return Drawn(sigma, shown, own)


def noisy_and_velocity(source: Tensor, target: Tensor, noise: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) at the drawn level, and their velocity: the noise less the whole edit's latents."""
    sigma, shown = (x[:, None, None, None] for x in (drawn.sigma, drawn.shown))
    return torch.lerp(torch.lerp(source, target, shown), noise, sigma), noise - target


def sampled(noise: Tensor, sigma: Tensor, steps: int, velocity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Latents (B, C, h, w) that so many steps of Euler come to from pure noise, each row at its level (B,).

    velocity: of latents, at the level that each row has.
    """
    latents = noise
    step = (1 - sigma) / steps
    for taken in range(steps):
        latents = latents - step[:, None, None, None] * velocity(latents, 1 - taken * step)
    return latents


def rest_of_the_way(latents: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """The velocity that leads from latents (B, C, h, w), at their levels (B,), to the target."""
    return (latents - target) / sigma[:, None, None, None]


def guided(source: Tensor, target: Tensor, guidance: Tensor) -> Tensor:
    """The edit as guidance exaggerates it: pixels in [0, 1]; 1 is the edit itself, MAX_GUIDANCE half as much again.

    Classifier-free guidance (Ho and Salimans 2022) goes away from what no instruction would give, here the source.
    """
    weight = 1 + EXAGGERATION * (guidance - 1) / (MAX_GUIDANCE - 1)
    return torch.lerp(source, target, weight[:, None, None, None]).clamp(0, 1)
