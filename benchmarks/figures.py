"""The figures of a run, computed from its records alone.

Percentiles are numpy's with linear interpolation, of the latencies of answered requests. Throughput counts pictures
that came:

- open loop: those of answered requests over the time from the start to the last answer;
- closed loop: within the *saturated window*, in which every worker is busy. Its start leaves out the ramp: it is when
  as many requests have ended as there are workers (each has, in the mean, gone round once, so that they no longer
  march in step from their common start). It ends when a worker finds no further request: with the first request to end
  after the last was sent.

What was done within the window is known by one of three sources, the first of which there is:

- `step log` (row-steps alone): the rows of the steps that the server's own log has within the window;
- `denoise stage`: a request is spread evenly over the stage in which its steps run, which ends before `vae` and `png`
  of its `server-timing`. Time in a queue is none of it: what waits in the window and runs after it counts nothing;
- `completions`: a request counts where it ends. It is right in the mean, and coarse where few end.

A run is `good` unless the harness itself was late, or nothing was answered; `problems` says which. `cautions` tell of a
saturated window that is short, or missing, which makes a good run's throughput a rough one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from benchmarks.run import OUTCOMES, Lag, Record, Run

Source = Literal["step log", "denoise stage", "completions"]

MAX_LAG_S = 0.02
MAX_LAG_SHARE = 0.05
"""Lag is large above `MAX_LAG_S`, and above this share of the median latency, in its 99th percentile."""
MIN_WINDOW_ROUNDS = 2
"""A saturated window in which fewer requests a worker end than this is told as short."""
MIN_SAMPLES = {"p90": 10, "p95": 20, "p99": 100}
"""Below so many values a percentile is that of one or two of them, and is not told."""


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

    def told(self, part: str) -> float | None:
        """`mean`, a percentile or `max`; None where there are too few values for it."""
        return getattr(self, part) if self.count >= MIN_SAMPLES.get(part, 1) else None


@dataclass(frozen=True, slots=True)
class Window:
    """The saturated window of a closed loop, in seconds from the start. ended: requests that ended within."""

    from_s: float
    to_s: float
    ended: int

    @property
    def length_s(self) -> float:
        return self.to_s - self.from_s

    def share(self, from_s: float, to_s: float) -> float:
        """The part of that time that lies in the window, from 0 to 1."""
        overlap_s = min(to_s, self.to_s) - max(from_s, self.from_s)
        return max(0.0, overlap_s) / max(to_s - from_s, 1e-9)

    def holds(self, at_s: float) -> bool:
        return self.from_s < at_s <= self.to_s


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
    window. row_steps_per_s: likewise, None where the steps are the model's own. counted_by, row_steps_counted_by: in a
    closed loop, where the throughput comes from, see there. offered_per_s: requests sent a second
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
    counted_by: Source | None
    row_steps_counted_by: Source | None
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
    cautions: list[str]
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
        counted_by=rates.counted_by,
        row_steps_counted_by=rates.row_steps_counted_by,
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
        cautions=_cautions(run, rates.window),
        notes=_notes(run, rates),
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


def denoise_s(record: Record) -> tuple[float, float] | None:
    """From when to when its steps ran, on the run's clock, by its `server-timing`; None where that does not tell."""
    if "denoise" not in record.stages_ms:
        return None
    ended_s = record.ended_s - sum(record.stages_ms.get(name, 0.0) for name in ("vae", "png")) / 1000
    return ended_s - record.stages_ms["denoise"] / 1000, ended_s


class _Rates:
    """Amounts of the answered requests, by the second."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answered = [record for record in run.records if record.outcome == "answered"]

    @cached_property
    def window(self) -> Window | None:
        workers = self._run.load.concurrency
        return saturated_window(self._run.records, workers) if workers else None

    @cached_property
    def counted_by(self) -> Source | None:
        """None in an open loop, whose requests all count."""
        if self.window is None:
            return None
        return "denoise stage" if all(self._denoise_s) and self._answered else "completions"

    @property
    def row_steps_counted_by(self) -> Source | None:
        return "step log" if self.window and self._run.steps else self.counted_by

    @property
    def row_steps_per_s(self) -> float | None:
        if self.window and self._run.steps:
            return self._logged_per_s(self.window)
        known = [record.row_steps for record in self._answered if record.row_steps is not None]
        return self.per_s(known) if known and len(known) == len(self._answered) else None

    def per_s(self, amounts: Sequence[float]) -> float | None:
        """amounts: one for each answered request."""
        if self._run.load.process == "closed":
            window = self.window
            if window is None:
                return None
            return sum(a * b for a, b in zip(amounts, self._shares(window), strict=True)) / window.length_s
        ended_s = max((record.ended_s for record in self._answered), default=0.0)
        return sum(amounts) / ended_s if ended_s > 0 else None

    @cached_property
    def _denoise_s(self) -> list[tuple[float, float] | None]:
        return [denoise_s(record) for record in self._answered]

    def _shares(self, window: Window) -> list[float]:
        """Of each answered request, what was done within the window."""
        if self.counted_by == "denoise stage":
            return [window.share(*stage) for stage in self._denoise_s if stage]
        return [float(window.holds(record.ended_s)) for record in self._answered]

    def _logged_per_s(self, window: Window) -> float:
        began = [step.at - self._run.started_at for step in self._run.steps]
        spans = zip(began, self._run.steps, strict=True)
        return sum(step.rows * window.share(at, at + step.seconds) for at, step in spans) / window.length_s


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


def _cautions(run: Run, window: Window | None) -> list[str]:
    workers = run.load.concurrency
    if not workers:
        return []
    if window is None:
        return [f"{len(run.records)} requests are too few for {workers} workers: no saturated window"]
    if window.ended < MIN_WINDOW_ROUNDS * workers:
        return [f"only {window.ended} requests ended in the saturated window of {workers} workers"]
    return []


def _notes(run: Run, rates: "_Rates") -> list[str]:
    notes: list[str] = []
    if run.simulated:
        notes.append(f"the backend is {run.device}: times come from a table, not from a device")
    if rates.window:
        notes.append(f"throughput is counted by {rates.counted_by}, row-steps by {rates.row_steps_counted_by}")
    notes += _cautions(run, rates.window)
    if run.withheld:
        notes.append(f"not sent, so that the server's own values count: {', '.join(run.withheld)}")
    if run.engine is None:
        notes.append("the server has no metrics of its engine")
    return notes
