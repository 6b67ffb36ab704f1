"""Which rows the device has memory for: what rows hold, and the peak of what runs over them, against a budget."""

import math
from collections.abc import Hashable

from serve.engine.curves import Curves
from serve.engine.profile import Profile


class Room:
    """budget_bytes: for rows and for what runs over them, beside the model's weights.

    Where nothing was measured everything is taken to fit; running out then teaches the limit.
    """

    def __init__(self, profile: Profile, budget_bytes: float = math.inf) -> None:
        self._profile = profile
        self.budget_bytes = budget_bytes
        self._held: dict[int, float] = {}
        self._most_passes: dict[Hashable, int] = {}

    @property
    def is_empty(self) -> bool:
        return not self._held

    @property
    def held_bytes(self) -> float:
        return sum(self._held.values())

    def hold(self, row: int, row_bytes: float) -> None:
        """The row is begun and holds so much."""
        self._held[row] = row_bytes

    def free(self, row: int) -> None:
        self._held.pop(row, None)

    def for_more(self, key: Hashable, rows: int) -> bool:
        """Whether so many more rows of the key can be begun beside those that are."""
        return self.held_bytes + rows * self.row_bytes(key) + self.peak_bytes(key, 1) <= self.budget_bytes

    def ever(self, key: Hashable, passes: int) -> bool:
        """Whether a row of the key, with so many passes a step, fits by itself."""
        return self.row_bytes(key) + self.peak_bytes(key, min(passes, self._profile.max_batch)) <= self.budget_bytes

    def limit(self, key: Hashable) -> int:
        """Passes of one call: those worth running together, as far as the memory beside the rows held allows."""
        passes = min(self._profile.knee(key), self._most_passes.get(key, self._profile.max_batch))
        if not self._profile.fixed:
            while passes > 1 and self.held_bytes + self.peak_bytes(key, passes) > self.budget_bytes:
                passes -= 1
        return passes

    def encoded_together(self, key: Hashable) -> float:
        """Texts or pictures of one call that the memory beside the rows held allows; one at any rate."""
        return self._fitting(self._profile.encode_bytes, key)

    def decoded_together(self, key: Hashable) -> float:
        """Likewise rows."""
        return self._fitting(self._profile.decode_bytes, key)

    def ran_out(self, key: Hashable, passes: int) -> None:
        """A call with so many passes did not fit: none of this key will be that large again."""
        if not self._profile.fixed:  # a filled call is no smaller with fewer rows
            self._most_passes[key] = max(1, min(passes // 2, self._most_passes.get(key, passes)))

    def row_bytes(self, key: Hashable) -> float:
        return self._profile.row_bytes.at(key, self._profile.tokens(key), 1) or 0.0

    def peak_bytes(self, key: Hashable, passes: int) -> float:
        """The most that a step of so many passes, or encoding or decoding a row, takes for a while."""
        tokens = self._profile.tokens(key)
        called = self._profile.max_batch if self._profile.fixed else passes
        curves = (
            (self._profile.peak_bytes, called),
            (self._profile.encode_bytes, 1),
            (self._profile.decode_bytes, 1),
        )
        return max(curve.at(key, tokens, at) or 0.0 for curve, at in curves)

    def _fitting(self, row_bytes: Curves, key: Hashable) -> float:
        """row_bytes: that one takes for a while; so many take so many times that."""
        each_bytes = row_bytes.at(key, self._profile.tokens(key), 1) or 0.0
        return max(1.0, (self.budget_bytes - self.held_bytes) / each_bytes) if each_bytes else math.inf
