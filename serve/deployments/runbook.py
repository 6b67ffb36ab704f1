"""Which requests are the same one sent again: they share one run, and its answer for as long as it is kept."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from starlette.datastructures import Headers

from serve.errors import IdempotencyKeyReused, InvalidRequest

KEY_HEADER = "idempotency-key"
RETRY_HEADER = "x-stainless-retry-count"
"""OpenAI's clients send it: 0, and with each retry one more."""

MOST_CHARACTERS = 255
RETRY_GRACE_S = 3.0
"""How long a run goes on that nobody waits for, where a retry may come: OpenAI's clients wait 0.5 and then 1 s."""

REJOIN_S = 60.0
"""How long the answer of such a run is kept, for a retry whose first answer got lost on its way."""

Result = TypeVar("Result")
Event = TypeVar("Event")
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Claim:
    """What makes requests the same. name: unlike that of any other; fingerprint: of what they ask for.

    joins: whether it may take the answer of a run that is there. lasting: whether its sender said that it comes back,
    so that its run goes on without it and its answer is kept.
    """

    name: str
    fingerprint: str
    joins: bool
    lasting: bool


def idempotency_key(headers: Headers) -> str:
    """Empty where there is none. Raises InvalidRequest."""
    key = headers.get(KEY_HEADER)
    if key is None:
        return ""
    if not 0 < len(key) <= MOST_CHARACTERS or not key.isascii() or not key.isprintable():
        raise InvalidRequest(f"the header {KEY_HEADER} must be 1 to {MOST_CHARACTERS} printable ASCII characters")
    return key


def claims(headers: Headers) -> bool:
    """Whether `claim_of` makes one."""
    return KEY_HEADER in headers or headers.get(RETRY_HEADER, "").isdecimal()


def claim_of(headers: Headers, caller: str, fingerprint: str) -> Claim:
    """Of a request that `claims`. caller: whose keys these are; nobody joins a run of somebody else's."""
    key = idempotency_key(headers)
    if key:
        return Claim(f"key {caller} {key}", fingerprint, joins=True, lasting=True)
    retried = headers[RETRY_HEADER].strip("0") != ""
    return Claim(f"retry {caller} {fingerprint}", fingerprint, joins=retried, lasting=False)


@dataclass(slots=True)
class _Told(Generic[Event]):
    """What a run tells on its way. Each listener hears what was told first, and all from then on; None is the end."""

    first: Event | None = None
    ended: bool = False
    listeners: list[asyncio.Queue[Event | None]] = field(default_factory=list[asyncio.Queue[Event | None]])

    def tell(self, event: Event) -> None:
        self.first = event if self.first is None else self.first
        for heard in self.listeners:
            heard.put_nowait(event)

    def end(self) -> None:
        self.ended = True
        for heard in self.listeners:
            heard.put_nowait(None)

    def listen(self) -> asyncio.Queue[Event | None]:
        heard = asyncio.Queue[Event | None]()
        if self.first is not None:
            heard.put_nowait(self.first)
        if self.ended:
            heard.put_nowait(None)
        self.listeners.append(heard)
        return heard


@dataclass(slots=True, eq=False)
class _Run(Generic[Result, Event]):
    """useful_s: for how long its answer is worth keeping. timer: while it runs and nobody waits, to its end; once it
    has ended, to that of its answer."""

    claim: Claim
    useful_s: float
    task: asyncio.Task[Result]
    told: _Told[Event]
    waiting: int = 0
    bytes: int = 0
    timer: asyncio.TimerHandle | None = None

    def set_timer(self, after_s: float, then: Callable[["_Run[Result, Event]"], None]) -> None:
        """In place of the one that is set."""
        self.stop_timer()
        self.timer = asyncio.get_running_loop().call_later(after_s, then, self)

    def stop_timer(self) -> None:
        """The event loop keeps what it stops until its time, but nothing that it holds."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(slots=True)
class RunBook(Generic[Result, Event]):
    """Runs under way and answers kept. lifetime_s: of the answers of lasting claims. max_bytes: of all answers; beyond
    it the oldest go, and only the last may be larger alone. size_bytes: of one. An error is not kept: whoever comes
    next runs again.
    """

    lifetime_s: float
    max_bytes: int
    size_bytes: Callable[[Result], int]
    _runs: dict[str, _Run[Result, Event]] = field(default_factory=dict[str, _Run[Result, Event]])
    _kept: dict[_Run[Result, Event], None] = field(default_factory=dict[_Run[Result, Event], None])
    _kept_bytes: int = 0

    async def answer(
        self, claim: Claim, start: Callable[[], Awaitable[Result]], useful_s: float = math.inf
    ) -> tuple[Result, bool]:
        """The answer, and whether it is that of a run which was there. start: runs it, where there is none.

        useful_s: the answer is kept no longer. Raises IdempotencyKeyReused, and what the run raises.
        """
        async with self._joined(claim, lambda tell: start(), useful_s) as (run, there):
            return await asyncio.shield(run.task), there

    async def watch(
        self, claim: Claim, start: Callable[[Tell[Event]], Awaitable[Result]]
    ) -> AsyncGenerator[tuple[Event | Result, bool]]:
        """As `answer`, for a run that tells what happens. Who joins it hears what it told first, all that it tells from
        then on, and its answer."""
        async with self._joined(claim, start, math.inf) as (run, there):
            heard = run.told.listen()
            try:
                while (event := await heard.get()) is not None:
                    yield event, there
                yield await asyncio.shield(run.task), there
            finally:
                run.told.listeners.remove(heard)

    @asynccontextmanager
    async def _joined(
        self, claim: Claim, start: Callable[[Tell[Event]], Awaitable[Result]], useful_s: float
    ) -> AsyncGenerator[tuple[_Run[Result, Event], bool]]:
        """A run that is waited for as long as the context is open, and whether it was there."""
        run = self._runs.get(claim.name)
        if run is not None and run.claim.fingerprint != claim.fingerprint:
            raise IdempotencyKeyReused("the idempotency key was used with another request; send a new one with each")
        there = run is not None and claim.joins
        if run is None or not there:
            run = self._begin(claim, start, useful_s)
        run.waiting += 1
        if not run.task.done():
            run.stop_timer()
        try:
            yield run, there
        finally:
            run.waiting -= 1
            if not run.waiting and not run.claim.lasting and not run.task.done():
                run.set_timer(RETRY_GRACE_S, self._abandon)

    def _begin(
        self, claim: Claim, start: Callable[[Tell[Event]], Awaitable[Result]], useful_s: float
    ) -> _Run[Result, Event]:
        told = _Told[Event]()
        # In a context of its own: Ray cancels what a cancelled request has called, and knows that by the context.
        task = asyncio.get_running_loop().create_task(_awaited(start, told.tell), context=Context())
        run = _Run(claim, useful_s, task, told)
        run.task.add_done_callback(lambda _: self._ended(run))
        self._runs[claim.name] = run
        return run

    def _ended(self, run: _Run[Result, Event]) -> None:
        run.told.end()
        run.stop_timer()
        if run.task.cancelled() or run.task.exception() is not None:
            self._forget(run)
            return
        run.bytes = self.size_bytes(run.task.result())
        self._kept[run] = None
        self._kept_bytes += run.bytes
        kept_s = self.lifetime_s if run.claim.lasting else REJOIN_S
        run.set_timer(min(kept_s, run.useful_s), self._forget)
        while self._kept_bytes > self.max_bytes and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))

    def _forget(self, run: _Run[Result, Event]) -> None:
        run.stop_timer()
        if run in self._kept:
            del self._kept[run]
            self._kept_bytes -= run.bytes
        if self._runs.get(run.claim.name) is run:
            del self._runs[run.claim.name]

    def _abandon(self, run: _Run[Result, Event]) -> None:
        if not run.task.done():
            self._forget(run)  # now, or a request that comes before it has ended would join it
            run.task.cancel()


async def _awaited(start: Callable[[Tell[Event]], Awaitable[Result]], tell: Tell[Event]) -> Result:
    return await start(tell)
