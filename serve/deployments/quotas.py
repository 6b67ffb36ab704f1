"""What each key has spent of its limits, counted in one place for all replicas of the ingress."""

import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from serve.auth import Principal
from serve.deployments.calls import refusals_as_results
from serve.deployments.logs import adopt_serve_logging
from serve.errors import LimitTooLow, RateLimited

MINUTE_S = 60.0
SILENT_S = 15.0
"""After which an ingress that has not been heard of has died, and what it held is free again."""


@dataclass(slots=True)
class _Lease:
    key: str
    images: int
    begun_s: float


@dataclass(slots=True)
class Ledger:
    """clock: seconds, steady.

    Leases are numbered from a random number on: one of a ledger that is gone is none of its successor's.
    """

    clock: Callable[[], float] = time.monotonic
    _limiter: MovingWindowRateLimiter = field(default_factory=lambda: MovingWindowRateLimiter(MemoryStorage()))
    _in_flight: Counter[str] = field(default_factory=Counter[str])
    _leases: dict[str, dict[int, _Lease]] = field(default_factory=dict[str, dict[int, _Lease]])
    _heard_s: dict[str, float] = field(default_factory=dict[str, float])
    _last_lease: int = field(default_factory=lambda: secrets.randbits(64))

    def request(self, principal: Principal) -> Mapping[str, str]:
        """Count a request. Answers the headers that tell of the limit. Raises RateLimited."""
        return self._spend(principal.name, "requests", principal.limits.requests_per_minute, 1)

    def begin(self, principal: Principal, images: int, owner: str) -> tuple[int, Mapping[str, str]]:
        """Count images, which are in flight until `end`. owner: the ingress that holds them.

        Answers the number of the lease and the headers that tell of the limit. Raises RateLimited.
        """
        self._hear(owner)
        most, now = principal.limits.images_in_flight, self._in_flight[principal.name]
        if most is not None and images > most:
            raise _never(f"{images} images were asked for; this key may have {most} in flight")
        if most is not None and now + images > most:
            raise RateLimited(
                f"{now} images of this key are in flight and {images} more were asked for; at most {most} may be",
                retry_after_s=1,
            )
        headers = self._spend(principal.name, "images", principal.limits.images_per_minute, images)
        self._last_lease += 1
        lease = self._last_lease
        self._leases[owner][lease] = _Lease(principal.name, images, self.clock())
        self._in_flight[principal.name] += images
        return lease, headers

    def end(self, owner: str, lease: int) -> None:
        """One that is gone already is none."""
        ended = self._leases.get(owner, {}).pop(lease, None)
        if ended is not None:
            self._in_flight[ended.key] -= ended.images

    def alive(self, owner: str, held: Set[int]) -> None:
        """The ingress says so, and which leases it holds. One whose answer never reached it is free."""
        self._hear(owner)
        lost_s = self._heard_s[owner] - SILENT_S
        for number in [number for number, lease in self._leases[owner].items() if lease.begun_s < lost_s]:
            if number not in held:
                self.end(owner, number)

    def _hear(self, owner: str) -> None:
        """What those hold that have been silent is free."""
        now_s = self.clock()
        self._heard_s[owner] = now_s
        self._leases.setdefault(owner, {})
        for silent in [name for name, heard_s in self._heard_s.items() if heard_s + SILENT_S < now_s]:
            for lease in list(self._leases[silent]):
                self.end(silent, lease)
            del self._leases[silent], self._heard_s[silent]

    def _spend(self, key: str, what: str, most: int | None, cost: int) -> Mapping[str, str]:
        if most is None:
            return {}
        if cost > most:
            raise _never(f"{cost} {what} were asked for; this key may spend {most} a minute")
        limit = RateLimitItemPerMinute(most)
        spent = self._limiter.hit(limit, key, what, cost=cost)
        window = self._limiter.get_window_stats(limit, key, what)
        reset_s = max(0.0, window.reset_time - time.time())
        told = {
            f"x-ratelimit-limit-{what}": str(most),
            f"x-ratelimit-remaining-{what}": str(window.remaining),
            f"x-ratelimit-reset-{what}": duration(reset_s),
        }
        if not spent:
            message = f"this key may spend {most} {what} a minute; {window.remaining} are left in this one"
            raise RateLimited(message, retry_after_s=max(1.0, reset_s), limits=told)
        return told


def _never(message: str) -> LimitTooLow:
    return LimitTooLow(message, retry_after_s=MINUTE_S)


def duration(seconds: float) -> str:
    """As OpenAI's headers tell it: `1m12s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class Quotas:
    """One replica. What it has counted is gone with it."""

    def __init__(self, log_level: str) -> None:
        adopt_serve_logging(log_level)
        self._ledger = Ledger()

    @refusals_as_results
    async def request(self, principal: Principal) -> Mapping[str, str]:
        return self._ledger.request(principal)

    @refusals_as_results
    async def begin(self, principal: Principal, images: int, owner: str) -> tuple[int, Mapping[str, str]]:
        return self._ledger.begin(principal, images, owner)

    async def end(self, owner: str, lease: int) -> None:
        self._ledger.end(owner, lease)

    async def alive(self, owner: str, held: Set[int]) -> None:
        self._ledger.alive(owner, held)

    async def ping(self) -> None:
        """Whether this process answers."""
