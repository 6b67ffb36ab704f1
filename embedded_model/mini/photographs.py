"""Crops of the training photographs, on the device that trains."""

import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from embedded_model.data import training_photographs
from embedded_model.mini.seeds import seed_of

_LONG_SIDES = (1024, 640, 400, 256)
"""In pixels; crops of one size from these show details at several scales."""
_QUALITY = 95
_LEAST_SPREAD = 8.0
"""Of a crop's bytes. On what is flatter, most edits change nothing."""
_TRIES = 4
_RECOLOURED = 0.5
"""Share of crops whose colours are changed, so that sources differ more than the photographs do."""


class Photographs:
    """Every photograph at several scales, kept as (3, H, W) bytes on the device."""

    def __init__(self, work: Path, device: torch.device) -> None:
        """work: has them in `photographs`, 11 MB of JPEG that may be carried to another machine. Where it has not, they
        are fetched, with the packages that they are from, into `cache`."""
        files = sorted(_kept(work).iterdir())
        self._device = device
        self._scales = [[_shrunk(file, side).to(device) for side in _LONG_SIDES] for file in files]

    def crops(self, count: int, size: tuple[int, int], seed: int) -> Tensor:
        """(count, 3, height, width) float32 in [0, 1]: mirrored at random, half of them recoloured. size: of those two.

        Where a photograph has the room only on its side, it is turned. Raises ValueError where none is so large.
        """
        choose = random.Random(seed_of("crops", seed))
        fitting = [[scale for scale in scales if _holds(scale, size)] for scales in self._scales]
        fitting = [scales for scales in fitting if scales]
        if not fitting:
            raise ValueError(f"no photograph has {size[1]}x{size[0]} pixels")
        pixels = torch.stack([_shown(fitting, size, choose) for _ in range(count)]) / 255
        generator = torch.Generator(self._device).manual_seed(seed_of("colours", seed))
        return _recoloured(pixels, generator)


def _kept(work: Path) -> Path:
    folder, partial = work / "photographs", work / "photographs.partial"
    if not folder.exists():
        partial.mkdir(parents=True, exist_ok=True)
        for photograph in training_photographs(work / "cache"):
            Image.fromarray(photograph.scales[0]).save(partial / f"{photograph.name}.jpg", quality=_QUALITY)
        partial.rename(folder)
    return folder


def _shrunk(file: Path, long_side: int) -> Tensor:
    with Image.open(file) as picture:
        picture.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _holds(picture: Tensor, size: tuple[int, int]) -> bool:
    """Upright or on its side."""
    return _fits(picture, size) or _fits(picture.mT, size)


def _fits(picture: Tensor, size: tuple[int, int]) -> bool:
    return picture.shape[1] >= size[0] and picture.shape[2] >= size[1]


def _shown(photographs: Sequence[Sequence[Tensor]], size: tuple[int, int], choose: random.Random) -> Tensor:
    """A crop in which there is something to be seen, if it is found soon."""
    crops = (_crop(choose.choice(choose.choice(photographs)), size, choose) for _ in range(_TRIES))
    flat = next(crops)
    return next((crop for crop in chain((flat,), crops) if crop.float().std() >= _LEAST_SPREAD), flat)


def _crop(picture: Tensor, size: tuple[int, int], choose: random.Random) -> Tensor:
    if not _fits(picture, size):
        picture = picture.rot90(1, (1, 2))
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
