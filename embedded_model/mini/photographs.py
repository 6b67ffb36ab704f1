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

    def crops(self, count: int, size: tuple[int, int], seed: int) -> Tensor:
        """(count, 3, height, width) float32 in [0, 1]: mirrored at random, half of them recoloured. size: of those two.

        Raises ValueError where no photograph is so large.
        """
        choose = random.Random(seed)
        fitting = [[scale for scale in scales if _holds(scale, size)] for scales in self._scales]
        fitting = [scales for scales in fitting if scales]
        if not fitting:
            raise ValueError(f"no photograph has {size[1]}x{size[0]} pixels")
        pixels = torch.stack([_crop(choose.choice(choose.choice(fitting)), size, choose) for _ in range(count)]) / 255
        generator = torch.Generator(self._device).manual_seed(seed)
        return _recoloured(pixels, generator)


def _holds(picture: Tensor, size: tuple[int, int]) -> bool:
    return picture.shape[1] >= size[0] and picture.shape[2] >= size[1]


def _crop(picture: Tensor, size: tuple[int, int], choose: random.Random) -> Tensor:
    top, left = choose.randint(0, picture.shape[1] - size[0]), choose.randint(0, picture.shape[2] - size[1])
    crop = picture[:, top : top + size[0], left : left + size[1]]
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
