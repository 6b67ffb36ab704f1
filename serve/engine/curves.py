"""What something costs by key and batch size: measured where it was, and read off its neighbours elsewhere."""

import math
from collections.abc import Hashable
from typing import Any

MAX_KEYS = 256
"""Keys remembered, those of the last measurements: sizes that follow the source make many."""

RECENT = 3
"""Measurements at one place of which the lowest is what is learned: work is slow by accident, never quick by it."""

NEWEST = 0.2
"""Weight of that in what is learned: about the last ten count."""

TOO_HIGH = 2.0
"""How far what is believed may be above what is learned: beyond it, it was an accident, and is given up at once."""


class Curves:
    """One value, such as seconds, over the passes of a call and the tokens of a pass.

    Between two measured batch sizes of a key the value is interpolated; beyond them it follows the shape of the key
    that is nearest in tokens. A key that was never measured costs what that nearest one does, in proportion to tokens.
    """

    def __init__(self) -> None:
        self._points: dict[Hashable, dict[int, float]] = {}
        self._tokens: dict[Hashable, int] = {}
        self._recent: dict[tuple[Hashable, int], tuple[float, ...]] = {}

    def measured(self, key: Hashable, tokens: int, passes: int, value: float) -> None:
        """Believed as it is, whatever was before it at the same place."""
        points = self._points.pop(key, {})
        points[passes] = value
        self._points[key] = points
        self._tokens[key] = tokens
        if len(self._points) > MAX_KEYS:
            oldest = next(iter(self._points))
            del self._points[oldest], self._tokens[oldest]

    def learned(self, key: Hashable, tokens: int, passes: int, value: float) -> None:
        """What work that was run has cost, weighed against what is believed at that place.

        Nothing is believed of a place before the second measurement, and nothing higher before `RECENT` of them.
        """
        recent = (*self._recent.pop((key, passes), ())[1 - RECENT :], value)
        self._recent[key, passes] = recent
        if len(self._recent) > MAX_KEYS:
            del self._recent[next(iter(self._recent))]
        lowest = min(recent)
        believed = self._points.get(key, {}).get(passes)
        if believed is None:
            if len(recent) > 1:
                self.measured(key, tokens, passes, lowest)
        elif len(recent) == RECENT or lowest < believed:
            believed = min(believed, TOO_HIGH * lowest)
            self.measured(key, tokens, passes, believed + NEWEST * (lowest - believed))

    def at(self, key: Hashable, tokens: int, passes: int) -> float | None:
        """The value for that key, whose passes have so many tokens; None before any measurement."""
        points = self._points.get(key)
        nearest = self._nearest(key, tokens)
        if points is None:
            if nearest is None:
                return None
            return _read(self._points[nearest], passes) * tokens / self._tokens[nearest]
        inside = min(points) <= passes <= max(points)
        if inside or nearest is None:
            return _read(points, passes)
        shape = self._points[nearest]
        edge = min(points) if passes < min(points) else max(points)
        return points[edge] * _read(shape, passes) / max(_read(shape, edge), 1e-12)

    def known(self) -> list[tuple[Hashable, int]]:
        """The keys that were measured, and their tokens."""
        return list(self._tokens.items())

    def dump(self) -> list[dict[str, Any]]:
        """As JSON takes it, tuples of the keys as lists."""
        return [
            {"key": key, "tokens": self._tokens[key], "at": list(points.items())}
            for key, points in self._points.items()
        ]

    def load(self, dumped: list[dict[str, Any]]) -> None:
        """Raises KeyError, TypeError or ValueError where it is no such dump."""
        for one in dumped:
            for passes, value in one["at"]:
                self.measured(_hashable(one["key"]), int(one["tokens"]), int(passes), float(value))

    def _nearest(self, key: Hashable, tokens: int) -> Hashable | None:
        """Of the other keys; one that was measured at more batch sizes tells more, among those equally near."""
        others = [other for other in self._points if other != key]
        if not others:
            return None
        return min(others, key=lambda other: (abs(math.log(self._tokens[other] / tokens)), -len(self._points[other])))


def _read(points: dict[int, float], passes: int) -> float:
    """Interpolated; below the first point it is that, beyond the last it grows as between the last two."""
    known = sorted(points)
    if passes <= known[0]:
        return points[known[0]]
    if len(known) == 1:
        return points[known[0]] * passes / known[0]
    above = next((index for index, at in enumerate(known) if at >= passes), len(known) - 1)
    low, high = known[above - 1], known[above]
    return points[low] + (points[high] - points[low]) * (passes - low) / (high - low)


def _hashable(value: Any) -> Hashable:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
