"""How near pictures are to each other, and where they differ. Pictures are (3, H, W) in [0, 1]."""

import math

from torch import Tensor

from embedded_model.mini.scenes import PLACES

MAX_PSNR_DB = 100.0
LEAST_SHARE_OF_CHANGE = 0.25
"""Of what should change at a place, for it to count as changed."""


def squared_error(a: Tensor, b: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean over (..., 3, H, W), (...); of the pixels of a region (1, H, W) of 0 and 1 alone, if there is one."""
    error = (a - b).square().mean(dim=-3)
    if region is None:
        return error.mean(dim=(-2, -1))
    return (error * region[0]).sum(dim=(-2, -1)) / region.sum()


def psnr_db(a: Tensor, b: Tensor, region: Tensor | None = None) -> float:
    """Peak signal to noise ratio, at most MAX_PSNR_DB."""
    error = float(squared_error(a, b, region))
    return min(MAX_PSNR_DB, -10 * math.log10(error)) if error > 0 else MAX_PSNR_DB


def unchanged(source: Tensor, target: Tensor) -> Tensor:
    """Pixels in which the two agree, (1, H, W) of 0 and 1."""
    return (source == target).all(dim=0, keepdim=True).float()


def mean_change(source: Tensor, output: Tensor) -> float:
    """Of 255."""
    return float((output - source).abs().mean() * 255)


def is_at(place: str, source: Tensor, target: Tensor, output: Tensor, left: str | None = None) -> bool:
    """Whether, of the nine places, the named one has changed most, and by a fair part of what it should.

    `left`, from which something moved, does not compete: what is uncovered there may differ more.
    """
    changes = {p: float(error) for p, error in zip(PLACES, _errors_of_places(source, output), strict=True)}
    wanted = float(_errors_of_places(source, target)[PLACES.index(place)])
    rivals = (change for p, change in changes.items() if p not in (place, left))
    return changes[place] >= LEAST_SHARE_OF_CHANGE * wanted and changes[place] > max(rivals)


def _errors_of_places(a: Tensor, b: Tensor) -> list[Tensor]:
    """Squared errors in the nine cells, row by row."""
    error = (a - b).square().mean(dim=0)
    return [cell.mean() for row in error.tensor_split(3, dim=0) for cell in row.tensor_split(3, dim=1)]
