"""When requests are sent: at times of their own (open loop), or each worker's next after its last (closed loop)."""

from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np


@dataclass(frozen=True, slots=True)
class Poisson:
    """Open loop: arrivals independent of each other and of the server, `rate` a second.

    Their number is the mean one, not drawn: runs of a load differ in when requests come, not in how many.
    """

    rate: float

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Given:
    """Open loop: arrivals at these times, in seconds from the start, in order. origin: told in reports."""

    times_s: tuple[float, ...]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """Closed loop: so many workers, each with one request at a time."""

    concurrency: int

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; it must be at least 1")


Open = Poisson | Given
Arrivals = Open | Closed


def times_s(arrivals: Open, seed: int, requests: int | None, duration_s: float) -> list[float]:
    """Seconds from the start at which requests arrive: at most so many, and none later than that."""
    if isinstance(arrivals, Given):
        return list(takewhile(lambda at: at <= duration_s, islice(arrivals.times_s, requests)))
    span_s = duration_s if requests is None else min(duration_s, requests / arrivals.rate)
    return _poisson(max(1, round(arrivals.rate * span_s)), span_s, seed)


def _poisson(number: int, span_s: float, seed: int) -> list[float]:
    """Of a Poisson process, given how many come, each time is uniform. The first is at 0, so that the time from it to
    the last holds no idle start."""
    others = np.random.default_rng([seed, 7]).uniform(0, span_s, number - 1)
    return [0.0, *sorted(others.tolist())]
