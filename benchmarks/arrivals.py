"""When requests are sent: at times of their own (open loop), or each worker's next after its last (closed loop)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, takewhile

import numpy as np


@dataclass(frozen=True, slots=True)
class Poisson:
    """Open loop: arrivals independent of each other and of the server, `rate` a second in the mean."""

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
    endless = iter(arrivals.times_s) if isinstance(arrivals, Given) else _poisson(arrivals.rate, seed)
    return list(takewhile(lambda at: at <= duration_s, islice(endless, requests)))


def _poisson(rate: float, seed: int) -> Iterator[float]:
    """The first arrival is at 0, so that the time from it to the last holds no idle start."""
    random = np.random.default_rng([seed, 7])
    at = 0.0
    for _ in count():
        yield at
        at += float(random.exponential(1 / rate))
