"""The figures of a run, computed from its records alone.

Percentiles are numpy's with linear interpolation, of the latencies of answered requests. Throughput counts pictures
that came:

- open loop: those of answered requests over the time from the start to the last answer;
- closed loop: within the *saturated window*, in which every worker is busy. Its start leaves out the ramp: it is when
  as many requests have ended as there are workers (each has, in the mean, gone round once, so that they no longer
  march in step from their common start). It ends when a worker finds no further request: with the first request to end
  after the last was sent. A request counts by the part of its time
  under way that lies in the window, so that neither those that began before it nor those that end after it are lost,
  and workers in lock-step are counted exactly.

A run is `good` unless the harness itself was late, or nothing was answered; `problems` says which.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.run import OUTCOMES, Lag, Record, Run

MAX_LAG_S = 0.02
MAX_LAG_SHARE = 0.05
"""Lag is large above `MAX_LAG_S`, and above this share of the median latency, in its 99th percentile."""
MIN_WINDOW_ROUNDS = 2
"""A saturated window in which fewer requests a worker end than this is told as short."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a number of values; the unit is theirs."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        if not values:
            return None
        p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
        return cls(len(values), float(np.mean(values)), p50, p90, p95, p99, max(values))


@dataclass(frozen=True, slots=True)
class Window:
    """The saturated window of a closed loop, in seconds from the start. ended: requests that ended within."""

    from_s: float
    to_s: float
    ended: int

    @property
    def length_s(self) -> float:
        return self.to_s - self.from_s

    def share(self, record: Record) -> float:
        """The part of a request's time under way that lies in the window, from 0 to 1."""
        overlap_s = min(record.ended_s, self.to_s) - max(record.sent_s, self.from_s)
        return max(0.0, overlap_s) / max(record.ended_s - record.sent_s, 1e-9)


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Of one kind of the mix. latency in seconds; within_deadline from 0 to 1, None where it has no deadline."""

    sent: int
    answered: int
    latency: Spread | None
    within_deadline: float | None
    solo_s: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """sent = answered + refused + failed + unfinished.

    images_per_s, requests_per_s: throughput, see the module's docstring; None in a closed loop without a saturated
    window. row_steps_per_s: likewise, None where the steps are the model's own. offered_per_s: requests sent a second
    of the sending. latency in seconds, stages in ms. within_deadline: of all requests that have a deadline, those that
    were answered in time. errors: requests by code. send_lag: how late requests were sent.
    """

    sent: int
    answered: int
    refused: int
    failed: int
    unfinished: int
    images: int
    wall_s: float
    offered_per_s: float | None
    requests_per_s: float | None
    images_per_s: float | None
    row_steps_per_s: float | None
    window: Window | None
    latency: Spread | None
    within_deadline: float | None
    stages_ms: dict[str, Spread]
    kinds: dict[str, KindFigures]
    errors: dict[str, int]
    send_lag: Lag
    loop_lag: Lag
    good: bool
    problems: list[str]
    notes: list[str]


def figures(run: Run) -> Figures:
    """All figures of a run."""
    tally = Counter(record.outcome for record in run.records)
    answered = [record for record in run.records if record.outcome == "answered"]
    latency = Spread.of([record.latency_s for record in answered])
    rates = _Rates(run)
    send_lag = _lag(run.records)
    problems = _problems(run, latency, send_lag)
    return Figures(
        sent=len(run.records),
        **{outcome: tally[outcome] for outcome in OUTCOMES},
        images=sum(record.images for record in answered),
        wall_s=run.wall_s,
        offered_per_s=_offered(run.records),
        requests_per_s=rates.per_s([1.0 for _ in answered]),
        images_per_s=rates.per_s([record.images for record in answered]),
        row_steps_per_s=rates.row_steps_per_s,
        window=rates.window,
        latency=latency,
        within_deadline=_within_deadline(run.records),
        stages_ms=_stages(answered),
        kinds={kind: _kind(run, kind) for kind in dict.fromkeys(record.kind for record in run.records)},
        errors=dict(Counter(record.code for record in run.records if record.outcome != "answered").most_common()),
        send_lag=send_lag,
        loop_lag=run.loop_lag,
        good=not problems,
        problems=problems,
        notes=_notes(run, rates.window),
    )


def saturated_window(records: Sequence[Record], concurrency: int) -> Window | None:
    """The window of a closed loop as the module's docstring defines it; None where it would be empty."""
    ends = sorted(record.ended_s for record in records)
    if len(ends) <= concurrency:
        return None
    last_sent_s = max(record.sent_s for record in records)
    from_s = ends[concurrency - 1]
    to_s = next((end for end in ends if end > last_sent_s), last_sent_s)
    if to_s <= from_s:
        return None
    return Window(from_s, to_s, sum(from_s < end <= to_s for end in ends))


class _Rates:
    """Amounts of the answered requests, by the second."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answered = [record for record in run.records if record.outcome == "answered"]

    @cached_property
    def window(self) -> Window | None:
        workers = self._run.load.concurrency
        return saturated_window(self._run.records, workers) if workers else None

    @property
    def row_steps_per_s(self) -> float | None:
        known = [record.row_steps for record in self._answered if record.row_steps is not None]
        return self.per_s(known) if known and len(known) == len(self._answered) else None

    def per_s(self, amounts: Sequence[float]) -> float | None:
        """amounts: one for each answered request."""
        if self._run.load.process == "closed":
            window = self.window
            if window is None:
                return None
            pairs = zip(amounts, self._answered, strict=True)
            return sum(amount * window.share(record) for amount, record in pairs) / window.length_s
        ended_s = max((record.ended_s for record in self._answered), default=0.0)
        return sum(amounts) / ended_s if ended_s > 0 else None


def _kind(run: Run, kind: str) -> KindFigures:
    records = [record for record in run.records if record.kind == kind]
    answered = [record for record in records if record.outcome == "answered"]
    return KindFigures(
        sent=len(records),
        answered=len(answered),
        latency=Spread.of([record.latency_s for record in answered]),
        within_deadline=_within_deadline(records),
        solo_s=run.solo_s.get(kind),
    )


def _within_deadline(records: Iterable[Record]) -> float | None:
    """What was refused, failed or is unfinished has missed its deadline."""
    in_time = [record.in_time for record in records if record.deadline_s is not None]
    return sum(in_time) / len(in_time) if in_time else None


def _stages(answered: Sequence[Record]) -> dict[str, Spread]:
    names = dict.fromkeys(name for record in answered for name in record.stages_ms)
    spreads = {name: Spread.of([r.stages_ms[name] for r in answered if name in r.stages_ms]) for name in names}
    return {name: spread for name, spread in spreads.items() if spread}


def _offered(records: Sequence[Record]) -> float | None:
    sent_s = [record.sent_s for record in records]
    span_s = max(sent_s, default=0.0) - min(sent_s, default=0.0)
    return (len(sent_s) - 1) / span_s if span_s > 0 else None


def _lag(records: Sequence[Record]) -> Lag:
    lags = [max(0.0, record.lag_s) for record in records]
    spread = Spread.of(lags)
    return Lag(spread.mean, spread.p99, spread.max) if spread else Lag(0.0, 0.0, 0.0)


def _problems(run: Run, latency: Spread | None, send_lag: Lag) -> list[str]:
    if latency is None:
        return ["no request was answered"]
    limit_s = max(MAX_LAG_S, MAX_LAG_SHARE * latency.p50)
    late = {"requests were sent": send_lag.p99_s, "the harness's event loop was": run.loop_lag.p99_s}
    return [
        f"{what} {lag_s * 1000:.0f} ms late in the 99th percentile; at most {limit_s * 1000:.0f} ms are good"
        for what, lag_s in late.items()
        if lag_s > limit_s
    ]


def _notes(run: Run, window: Window | None) -> list[str]:
    notes: list[str] = []
    workers = run.load.concurrency or 0
    if run.simulated:
        notes.append("the backend is simulated: times come from a table, not from a device")
    if workers and window is None:
        notes.append(f"{len(run.records)} requests are too few for {workers} workers: no saturated window")
    if window and window.ended < MIN_WINDOW_ROUNDS * workers:
        notes.append(f"only {window.ended} requests ended in the saturated window of {workers} workers")
    if run.withheld:
        notes.append(f"not sent, so that the server's own values count: {', '.join(run.withheld)}")
    if run.engine is None:
        notes.append("the server has no metrics of its engine")
    return notes
