"""Schedulers in virtual time: jobs arrive, steps take what a table says, and nothing waits for a clock."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from serve.engine.policy import Batch, Row
from serve.types import Priority

StepSeconds = Callable[[Hashable, int], float]
"""Of a step, by its key and passes."""

H200_512PX = {1: 0.167, 2: 0.183, 4: 0.240, 8: 0.425, 16: 0.832}
"""Seconds a step by batch, of Qwen-Image at 512 px on one H200, as SGLang published them."""
LINEAR_STEP_S = 0.167


def h200_512px(key: Hashable, passes: int) -> float:
    low, high = next(pair for pair in pairwise(sorted(H200_512PX)) if passes <= pair[1])
    share = (passes - low) / (high - low)
    return H200_512PX[low] + share * (H200_512PX[high] - H200_512PX[low])


def linear(key: Hashable, passes: int) -> float:
    """Of a device that gains nothing from batches."""
    return LINEAR_STEP_S * passes


@dataclass(frozen=True, slots=True)
class ExactCosts:
    """Costs that are known exactly, one limit for all keys."""

    step: StepSeconds
    most_passes: int

    def step_s(self, key: Hashable, passes: int) -> float:
        return self.step(key, passes)

    def limit(self, key: Hashable) -> int:
        return self.most_passes


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of some rows that are alike."""

    at_s: float
    steps: int
    key: Hashable = "k"
    rows: int = 1
    width: int = 1
    priority: Priority = "normal"
    deadline_s: float = math.inf
    parameters: Hashable = None


@dataclass(frozen=True, slots=True)
class Ran:
    """One step, from when to when."""

    began_s: float
    ended_s: float
    batch: Batch


@dataclass(frozen=True, slots=True)
class History:
    """What became of the arrivals, by their place among them. ended_s: the last row's end, of jobs that ran."""

    arrivals: Sequence[Arrival]
    begun_s: Mapping[int, float]
    ended_s: Mapping[int, float]
    steps: Sequence[Ran]

    def spent_s(self, which: Callable[[Arrival], bool] = lambda _: True) -> list[float]:
        """From arrival to end of those jobs, the shortest first."""
        return sorted(self.ended_s[job] - one.at_s for job, one in enumerate(self.arrivals) if which(one))

    def device_s(self, key: Hashable, until_s: float = math.inf) -> float:
        """That the key's steps took which had ended by then."""
        return sum(one.ended_s - one.began_s for one in self.steps if one.batch.key == key and one.ended_s <= until_s)


class Steps(Protocol):
    """What of a scheduler the simulation drives."""

    def add(self, row: Row) -> None: ...
    def admit(self, now_s: float) -> tuple[int, ...]: ...
    def begin(self, row: int) -> None: ...
    def schedule(self, now_s: float) -> Batch | None: ...
    def advance(self, batch: Batch, seconds: float) -> tuple[int, ...]: ...


class FirstCome:
    """The rows that came first, in the largest batches that the limit allows, whatever they have left to do."""

    def __init__(self, most_passes: int) -> None:
        self._most_passes = most_passes
        self._rows: dict[int, Row] = {}
        self._left: dict[int, int] = {}

    def add(self, row: Row) -> None:
        self._rows[row.id] = row
        self._left[row.id] = row.steps

    def admit(self, now_s: float) -> tuple[int, ...]:
        return ()

    def begin(self, row: int) -> None: ...

    def schedule(self, now_s: float) -> Batch | None:
        chosen: list[Row] = []
        for row in self._rows.values():
            if row.key == next(iter(self._rows.values())).key and len(chosen) < self._most_passes:
                chosen.append(row)
        return Batch(chosen[0].key, tuple(row.id for row in chosen), len(chosen)) if chosen else None

    def advance(self, batch: Batch, seconds: float) -> tuple[int, ...]:
        for row in batch.rows:
            self._left[row] -= 1
        finished = tuple(row for row in batch.rows if not self._left[row])
        for row in finished:
            del self._rows[row], self._left[row]
        return finished


def rows_of(arrival: Arrival, job: int, first_row: int) -> list[Row]:
    return [
        Row(
            row,
            job,
            arrival.key,
            arrival.steps,
            arrival.width,
            arrival.at_s,
            arrival.priority,
            arrival.deadline_s,
            arrival.parameters,
        )
        for row in range(first_row, first_row + arrival.rows)
    ]


def simulate(
    scheduler: Steps,
    arrivals: Sequence[Arrival],
    step_s: StepSeconds,
    at_arrival: Callable[[Sequence[Row], float], None] = lambda rows, now_s: None,
) -> History:
    """Run all arrivals, which are in the order of their times, to their ends.

    A job that comes during a step is added after it. at_arrival: called with its rows just before.
    """
    now_s, coming = 0.0, 0
    jobs: dict[int, int] = {}
    begun_s: dict[int, float] = {}
    ended_s: dict[int, float] = {}
    steps: list[Ran] = []
    while True:
        while coming < len(arrivals) and arrivals[coming].at_s <= now_s:
            rows = rows_of(arrivals[coming], coming, len(jobs))
            at_arrival(rows, now_s)
            for row in rows:
                scheduler.add(row)
                jobs[row.id] = coming
            coming += 1
        for row in scheduler.admit(now_s):
            scheduler.begin(row)
        batch = scheduler.schedule(now_s)
        if batch is None and coming == len(arrivals):
            return History(arrivals, begun_s, ended_s, steps)
        if batch is None:
            now_s = arrivals[coming].at_s
            continue
        began_s, now_s = now_s, now_s + step_s(batch.key, batch.passes)
        steps.append(Ran(began_s, now_s, batch))
        for row in batch.rows:
            begun_s.setdefault(jobs[row], began_s)
        for row in scheduler.advance(batch, now_s - began_s):
            ended_s[jobs[row]] = now_s
