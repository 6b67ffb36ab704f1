"""What a group of tasks makes: pictures, what is asked of them, and what is wanted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """What is shown and what is wanted; everything is on one device.

    source, target and reference are (B, 3, H, W) in [0, 1]; mask (B, 1, H, W) is 1 where the edit is allowed and 0
    elsewhere, where the target is the source. `edits` names what is asked in each row, for the evaluation.
    """

    source: Tensor
    target: Tensor
    instructions: tuple[str, ...]
    edits: tuple[str, ...]
    reference: Tensor | None = None
    mask: Tensor | None = None


class Group(Protocol):
    """Tasks of one kind. What `make` returns follows from its arguments alone, of which it changes the generators."""

    @property
    def weight(self) -> float:
        """Its share of the training, next to those of other groups."""
        ...

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        """One pair for each photograph (B, 3, H, W) in [0, 1], on the device of the generator.

        The rows may come in another order. Held-out pairs ask in words, and for combinations, that others never use.
        """
        ...


@dataclass(frozen=True)
class Mixed:
    """A group whose rows are those of other groups, each by its weight."""

    weight: float
    parts: tuple[Group, ...]

    def make(
        self, photographs: Tensor, generator: torch.Generator, words: random.Random, *, held_out: bool = False
    ) -> Pairs:
        chosen = words.choices(range(len(self.parts)), [part.weight for part in self.parts], k=len(photographs))
        pairs: list[Pairs] = []
        for i, part in enumerate(self.parts):
            rows = [row for row, choice in enumerate(chosen) if choice == i]
            if rows:
                pairs.append(part.make(photographs[rows], generator, words, held_out=held_out))
        return joined(pairs)


def joined(parts: Sequence[Pairs]) -> Pairs:
    """All rows, one part after the other; either all parts have a reference or none has, and so for masks."""
    return Pairs(
        source=torch.cat([p.source for p in parts]),
        target=torch.cat([p.target for p in parts]),
        instructions=tuple(i for p in parts for i in p.instructions),
        edits=tuple(e for p in parts for e in p.edits),
        reference=_joined_or_none([p.reference for p in parts]),
        mask=_joined_or_none([p.mask for p in parts]),
    )


def _joined_or_none(tensors: Sequence[Tensor | None]) -> Tensor | None:
    given = [t for t in tensors if t is not None]
    if given and len(given) < len(tensors):
        raise ValueError("some parts have what others lack: a reference or a mask")
    return torch.cat(given) if given else None
