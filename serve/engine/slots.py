"""The inputs of a batch, side by side: a row that stays from step to step keeps its seat, and is copied once."""

from collections.abc import Hashable, Sequence

import torch

from serve.families.base import Inputs


class Slots:
    """Tensors with one seat a row. like: inputs of batch one, which all others equal in shape and type.

    Seats without a row hold what was there before: numbers of an earlier row, as good a filler as any.
    """

    def __init__(self, like: Inputs, size: int) -> None:
        # Copies of a row, and not empty tensors, have its memory format; and their numbers can be computed with.
        self._tensors = {name: torch.cat([tensor] * size) for name, tensor in like.items()}
        self._rows: list[Hashable] = [None] * size
        self._held: list[Inputs] = [{}] * size

    def fill(self, rows: Sequence[tuple[Hashable, Inputs]], called: int) -> tuple[Inputs, list[int]]:
        """Seat the rows among the first `called` seats. Answers the inputs of those seats, and each row's seat.

        rows: names and inputs; a row without a name (None) is never taken for another. An input that is the same
        tensor as when it was seated is not copied again.
        """
        seats = self._seated([name for name, _ in rows], called)
        for seat in set(range(len(self._rows))) - set(seats):
            self._rows[seat], self._held[seat] = None, {}
        for seat, (name, inputs) in zip(seats, rows, strict=True):
            held = self._held[seat]
            for key, tensor in inputs.items():
                if held.get(key) is not tensor:
                    self._tensors[key][seat] = tensor[0]
            self._rows[seat], self._held[seat] = name, inputs
        return {key: tensor[:called] for key, tensor in self._tensors.items()}, seats

    def vacate(self) -> None:
        """Every seat becomes free; its numbers stay."""
        self._rows = [None] * len(self._rows)
        self._held = [{}] * len(self._held)

    def _seated(self, names: Sequence[Hashable], called: int) -> list[int]:
        kept = {name: seat for seat, name in enumerate(self._rows[:called]) if name is not None and name in names}
        free = iter(sorted(set(range(called)) - set(kept.values())))
        return [kept[name] if name in kept else next(free) for name in names]
