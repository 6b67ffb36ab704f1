"""What a scheduler is given and what it is asked: rows, batches, and what the device costs."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.types import Priority


class Costs(Protocol):
    """What the scheduler needs to know of the device."""

    def step_s(self, key: Hashable, passes: int) -> float:
        """Seconds of one denoiser call with so many passes, as far as it is known."""
        ...

    def limit(self, key: Hashable) -> int:
        """Passes of one call beyond which a larger one gains nothing, or finds no memory; at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One picture to draw. job: rows of one job have it in common. width: passes through the denoiser that one of its
    steps makes. parameters: what whole-request batching wants equal. deadline_s: when it must have ended, on the
    clock of arrived_s.
    """

    id: int
    job: int
    key: Hashable
    steps: int
    width: int
    arrived_s: float
    priority: Priority = "normal"
    deadline_s: float = math.inf
    parameters: Hashable = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that run the next step together, all of one key. passes: that they make through the denoiser."""

    key: Hashable
    rows: tuple[int, ...]
    passes: int


class Scheduler(Protocol):
    """What the engine asks; `StepScheduler` is the one to use, the others are there to be measured against."""

    @property
    def waiting_rows(self) -> int:
        """Rows that are not begun."""
        ...

    @property
    def running_rows(self) -> int:
        """Rows that are begun and not finished."""
        ...

    def add(self, row: Row) -> None:
        """The row waits."""
        ...

    def admit(self, now_s: float) -> tuple[int, ...]:
        """The waiting rows of the next batch, which can be begun now, as far as there is memory for them."""
        ...

    def begin(self, row: int) -> None:
        """The row holds memory from now on, and can run."""
        ...

    def cancel(self, row: int) -> None:
        """The row is gone, at whatever point it was; one that is unknown or finished changes nothing."""
        ...

    def schedule(self, now_s: float) -> Batch | None:
        """The rows of the next step. Asking twice changes nothing."""
        ...

    def advance(self, batch: Batch, seconds: float) -> tuple[int, ...]:
        """A step of this batch took so long. Answers the rows that have finished; cancelled ones are skipped."""
        ...

    def charge(self, key: Hashable, seconds: float) -> None:
        """The device worked so long for rows of this key beside their steps."""
        ...

    def hopeless(self, now_s: float) -> list[int]:
        """Rows that could not make their deadline if nothing stood before them. An only job is not given up for an
        estimate: where that is wrong, nothing but the work itself can tell."""
        ...

    def queued_s(self) -> float:
        """Seconds that all rows will take, run in full batches."""
        ...

    def forecast(self, rows: Sequence[Row], now_s: float) -> tuple[int, float]:
        """Were a job of these rows added now: its place in the queue, counted from 1, or 0 where it would run at once;
        and seconds until its last row has run."""
        ...
