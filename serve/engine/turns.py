"""Keys take turns at the device: deficit round robin (Shreedhar and Varghese 1995) by time really used."""

import math
from collections import deque
from collections.abc import Hashable, Iterator

LEAST_QUANTUM_S = 1e-6


class Turns:
    """Every key has a credit of seconds, of which what it used is taken off; with none left its turn is over.

    The quantum of a turn is the shortest step among the keys; each turn is at least one step. Where a key pays
    for more than it had, it goes without until its debt is paid.
    """

    def __init__(self) -> None:
        self._keys: deque[Hashable] = deque()
        self._credit_s: dict[Hashable, float] = {}
        self._step_s: dict[Hashable, float] = {}

    def __iter__(self) -> Iterator[Hashable]:
        return iter(tuple(self._keys))

    def enter(self, key: Hashable, step_s: float) -> None:
        """step_s: what a step of it is expected to take."""
        if key not in self._credit_s:
            self._keys.append(key)
            self._credit_s[key] = 0.0
            self._step_s[key] = step_s

    def leave(self, key: Hashable) -> None:
        """Its credit goes with it, and so does its debt; whoever is left alone starts anew."""
        self._keys.remove(key)
        del self._credit_s[key], self._step_s[key]
        if len(self._keys) == 1:
            self._credit_s[self._keys[0]] = 0.0

    def front(self) -> Hashable:
        """The key whose turn it is."""
        if len(self._keys) == 1:
            return self._keys[0]
        while max(self._credit_s.values()) <= 0:
            self._grant()
        while self._credit_s[self._keys[0]] <= 0:
            self._keys.rotate(-1)
        return self._keys[0]

    def step(self, key: Hashable, seconds: float) -> None:
        """A step of the key took so long."""
        if key in self._credit_s:
            self._step_s[key] = seconds
            self.charge(key, seconds)

    def charge(self, key: Hashable, seconds: float) -> None:
        """Nobody is charged who is alone: there is no one to share with."""
        if key not in self._credit_s or len(self._keys) == 1:
            return
        self._credit_s[key] -= seconds
        if self._credit_s[key] <= 0 and self._keys[0] == key:
            self._keys.rotate(-1)

    def _grant(self) -> None:
        """As many rounds at once as it takes until a key has credit, but for rounding, which can leave it none."""
        quantum_s = max(LEAST_QUANTUM_S, min(self._step_s.values()))
        rounds = math.floor(-max(self._credit_s.values()) / quantum_s) + 1
        for key in self._keys:
            self._credit_s[key] += rounds * quantum_s
