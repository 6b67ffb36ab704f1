"""Crops of the training photographs, on the device that trains."""

import random
from pathlib import Path

import torch
from torch import Tensor

from embedded_model.data import training_photographs

_RECOLOURED = 0.5
"""Share of crops whose colours are changed, so that sources differ more than the photographs do."""


class Photographs:
    """Every photograph at several scales, kept as (3, H, W) bytes on the device."""

    def __init__(self, cache: Path, device: torch.device) -> None:
        """cache: where the packages that hold them are unpacked; they are fetched on the first use."""
        self._device = device
        self._scales = [
            [torch.tensor(scale).permute(2, 0, 1).contiguous().to(device) for scale in photograph.scales]
            for photograph in training_photographs(cache)
        ]

    def crops(self, count: int, side: int, seed: int) -> Tensor:
        """(count, 3, side, side) float32 in [0, 1]: mirrored at random, half of them recoloured."""
        choose = random.Random(seed)
        pixels = torch.stack([self._crop(side, choose) for _ in range(count)]).float() / 255
        generator = torch.Generator(self._device).manual_seed(seed)
        return _recoloured(pixels, generator)

    def _crop(self, side: int, choose: random.Random) -> Tensor:
        photograph = choose.choice(self._scales)
        scale = choose.choice([scale for scale in photograph if min(scale.shape[1:]) >= side])
        top, left = (choose.randint(0, size - side) for size in scale.shape[1:])
        crop = scale[:, top : top + side, left : left + side]
        return crop.flip(2) if choose.random() < 0.5 else crop


def _recoloured(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Other gamma, gains and saturation for a share of the rows."""

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        drawn = torch.rand((len(pixels), channels, 1, 1), generator=generator, device=pixels.device)
        return low + (high - low) * drawn

    changed = (pixels ** uniform(-0.5, 0.5).exp() * uniform(0.75, 1.25, 3)).clamp(0, 1)
    grey = changed.mean(1, keepdim=True)
    changed = (grey + uniform(0.2, 1.5) * (changed - grey)).clamp(0, 1)
    return torch.where(uniform(0, 1) < _RECOLOURED, changed, pixels)
