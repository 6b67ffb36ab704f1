"""How long queued work will take, from how long the last steps took."""

from collections.abc import Hashable, Mapping

NEWEST = 0.2
"""Weight of the newest measurement: about the last ten steps count, so that a first, slow step is soon forgotten."""

MAX_KEYS = 256
"""Keys remembered, those of the last steps: sizes that follow the source make many."""


class StepTimes:
    """Seconds that a row's step costs, exponentially weighted, for each key and over all."""

    def __init__(self) -> None:
        self._row_step_s: dict[Hashable, float] = {}
        self._overall_s: float | None = None

    def measured(self, key: Hashable, rows: int, seconds: float) -> None:
        """A step of that many rows, with the encoding and decoding done beside it, took so long."""
        newest = seconds / rows
        self._row_step_s[key] = _blend(self._row_step_s.pop(key, None), newest)
        if len(self._row_step_s) > MAX_KEYS:
            del self._row_step_s[next(iter(self._row_step_s))]
        self._overall_s = _blend(self._overall_s, newest)

    def seconds(self, row_steps: Mapping[Hashable, int]) -> float:
        """Of so many steps of rows by key; a key never measured costs what the others do. 0 before any measurement."""
        overall = self._overall_s or 0.0
        return sum(count * self._row_step_s.get(key, overall) for key, count in row_steps.items())


def _blend(before: float | None, newest: float) -> float:
    return newest if before is None else before + NEWEST * (newest - before)
