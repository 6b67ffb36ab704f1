"""What several runs say together of one goal: the median of a value a run, or one figure of all their requests.

A tail of few requests says little, and the median of three such tails no more. So the requests of all runs are pooled,
and where even those are too few for the percentile that is wanted, the next one below is told by its own name, at last
the maximum (`figures.MIN_SAMPLES`). One long run may stand for several: a queue that begins empty, again and again,
never gets as long as it gets.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.errors import BenchError
from benchmarks.figures import MIN_SAMPLES, Spread, figures
from benchmarks.run import Record, Run

Tail = Literal["p99", "p95", "max"]
Pick = Callable[[Record], bool]

_TAILS: tuple[Tail, ...] = ("p99", "p95", "max")


@dataclass(frozen=True, slots=True)
class Measured:
    """value: what counts. runs: of each run, or part of one, alone, where it has enough for it. n: what the value is
    made of, in words. tail: of its percentile, the name. marks: what speaks against the runs, a sentence each.
    """

    value: float
    runs: tuple[float, ...] = ()
    n: str = ""
    tail: str = ""
    marks: tuple[str, ...] = ()


def median_of(values: Sequence[float], runs: Sequence[Run] = ()) -> Measured:
    """values: one a run. runs: all that they were made of."""
    return Measured(statistics.median(values), tuple(values), _runs(len(values)), marks=marks(runs))


def parts_of(run: Run, count: int) -> list[Run]:
    """A run as so many, one after the other: each has the requests that were due in its part of the time."""
    length_s = run.duration_s / count
    due = [min(int(one.planned_s / length_s), count - 1) for one in run.records]
    return [
        replace(run, records=[one for one, place in zip(run.records, due, strict=True) if place == part])
        for part in range(count)
    ]


def pooled_ratio(above: Sequence[Run], below: Sequence[Run], pick: Pick, wanted: Tail) -> Measured:
    """A tail of the latency of one side's answered requests over the same tail of the other's."""
    upper, lower = ([_latencies(run, pick) for run in side] for side in (above, below))
    part = tail_of(min(sum(map(len, upper)), sum(map(len, lower))), wanted)
    pairs = zip(upper, lower, strict=True)
    each = [_at(one, part) / _at(other, part) for one, other in pairs if _enough(one, part) and _enough(other, part)]
    value = _at(_all(upper), part) / _at(_all(lower), part)
    n = f"{len(_all(upper))} / {len(_all(lower))} edits, {_drives(above)}"
    return Measured(value, tuple(each), n, _name(part), marks([*above, *below]))


def pooled_tail(each: Sequence[Sequence[float]], runs: Sequence[Run], wanted: Tail) -> Measured:
    """A tail of values that were measured in several runs, a list for each."""
    part = tail_of(sum(map(len, each)), wanted)
    alone = tuple(_at(one, part) for one in each if _enough(one, part))
    return Measured(_at(_all(each), part), alone, f"{len(_all(each))} edits, {_drives(runs)}", _name(part), marks(runs))


def pooled_within_deadline(runs: Sequence[Run]) -> Measured:
    """The share of all requests with a deadline that were answered in time."""
    each = [[float(one.in_time) for one in run.records if one.deadline_s is not None] for run in runs]
    if not all(each):
        raise BenchError("a run has no request with a deadline")
    alone = tuple(statistics.mean(one) for one in each)
    return Measured(statistics.mean(_all(each)), alone, f"{len(_all(each))} edits, {_drives(runs)}", marks=marks(runs))


def tail_of(samples: int, wanted: Tail) -> Tail:
    """The highest percentile from the wanted one down that so many samples have, else the maximum."""
    return next(part for part in _TAILS[_TAILS.index(wanted) :] if samples >= MIN_SAMPLES.get(part, 0))


def marks(runs: Sequence[Run]) -> tuple[str, ...]:
    """What speaks against these runs: the harness was late, or a window is short."""
    found = [(run, figures(run)) for run in runs]
    said = [f"{run.label}, seed {run.seed}: {words}" for run, of in found for words in [*of.problems, *of.cautions]]
    return tuple(dict.fromkeys(said))


def _latencies(run: Run, pick: Pick) -> list[float]:
    return [one.latency_s for one in run.records if one.outcome == "answered" and pick(one)]


def _at(values: Sequence[float], part: Tail) -> float:
    spread = Spread.of(values)
    if spread is None:
        raise BenchError("no request of the wanted kind was answered")
    return getattr(spread, part)


def _enough(values: Sequence[float], part: Tail) -> bool:
    return len(values) >= MIN_SAMPLES.get(part, 1)


def _all(each: Sequence[Sequence[float]]) -> list[float]:
    return [value for one in each for value in one]


def _drives(runs: Sequence[Run]) -> str:
    """How often it was measured: parts of one run are no more than that."""
    return _runs(len({(run.label, run.started_at) for run in runs}))


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _name(part: Tail) -> str:
    return "maximum" if part == "max" else part
