"""Where tokens are told to be: rows and columns, as FLUX.1 Kontext counts them, or spread over a larger picture's.

Rotary embedding makes places of these numbers, and what a network learns of them at small pictures, whose numbers are
few, does not hold at large ones. So small pictures have the numbers of large ones, at a fraction of the cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serve.families.flux_kontext import reference_offsets
from serve.families.flux_kontext_components import PACK


@dataclass(frozen=True)
class Axes:
    """Places of a picture's rows and of its columns of tokens, int64; `stretch` lies between two, on average."""

    rows: Tensor
    columns: Tensor
    stretch: int


def positions(noisy: Tensor, pictures: Sequence[Tensor], axes: Axes | None = None) -> Tensor:
    """(tokens of all, 3): picture index, row and column, as the server tells them to the transformer.

    axes: where the rows and columns are, of all pictures alike; where they come one after the other if not given.
    """
    grids = [(picture.shape[2] // PACK, picture.shape[3] // PACK) for picture in (noisy, *pictures)]
    offsets = [(0, 0), *reference_offsets(grids[1:])]
    if axes is None:
        rows, columns = (torch.arange(max(sides)) for sides in zip(*grids, strict=True))
        axes = Axes(rows, columns, 1)
    return torch.cat(
        [_grid(min(i, 1), *offset, grid, axes) for i, (offset, grid) in enumerate(zip(offsets, grids, strict=True))]
    )


def spread(latents: Tensor, stretch: int, generator: torch.Generator) -> Axes:
    """Rows and columns of a picture `stretch` times as large as the one of latents (B, C, h, w), one of `stretch` each.

    Which one is left to chance, but the second half mirrors the first, so that a mirror image has its place exactly.
    """
    rows, columns = (_spread(side // PACK, stretch, generator) for side in latents.shape[2:])
    return Axes(rows, columns, stretch)


def _spread(count: int, stretch: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(stretch, (count,), generator=generator)
    first = torch.arange(count) * stretch + chosen
    return torch.where(torch.arange(count) < count / 2, first, count * stretch - 1 - first.flip(0))


def _grid(index: int, top: int, left: int, grid: tuple[int, int], axes: Axes) -> Tensor:
    rows = axes.rows[: grid[0]] + top * axes.stretch
    columns = axes.columns[: grid[1]] + left * axes.stretch
    places = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.full_like(places[0], index), *places], dim=-1).reshape(-1, 3).float()
