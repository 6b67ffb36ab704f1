"""The clocked part of a measurement: requests go out, each one's end is recorded, and what hangs is given up."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from benchmarks.bodies import Body, Shape
from benchmarks.plan import Edit, Plan, Slo
from benchmarks.run import Outcome, Record
from benchmarks.wire import Wire, reply

PAUSE_S = 0.1
HEARTBEAT_S = 0.01


@dataclass(frozen=True, slots=True)
class Job:
    """A request ready to be sent."""

    index: int
    edit: Edit
    body: Body


class Feed:
    """Jobs in the plan's order. limit: how many; None is no end.

    All jobs are built here, before any clock starts; without an end, all their pictures, which is what takes the time.
    """

    def __init__(self, plan: Plan, shape: Shape, limit: int | None) -> None:
        self._plan = plan
        self._shape = shape
        self._limit = limit
        self._next = 0
        self.dry = asyncio.Event()
        """Set once the last job is taken."""
        if limit == 0:
            self.close()
        self._jobs = [self._job(index) for index in range(limit or 0)]
        if limit is None:
            for key in plan.picture_keys():
                plan.pictures.encoded(key)

    def take(self) -> Job | None:
        """The next job, or None when there is none."""
        if self.dry.is_set():
            return None
        index = self._next
        self._next += 1
        if self._next == self._limit:
            self.dry.set()
        return self._job(index) if self._limit is None else self._jobs[index]

    def close(self) -> None:
        """No further job is given."""
        self.dry.set()

    def _job(self, index: int) -> Job:
        edit = self._plan.edit(index)
        if not self._shape.runs_as_planned(edit):
            edit = replace(edit, row_steps=None)
        return Job(index, edit, self._shape.body(edit, self._plan.pictures))


class Ledger:
    """One record for each request that was sent, whatever becomes of it. The clock starts when this is made."""

    def __init__(self, wire: Wire, solo_s: dict[str, float]) -> None:
        self._wire = wire
        self._solo_s = solo_s
        self._under_way: dict[int, Record] = {}
        self.records: list[Record] = []
        self.started_at = time.time()
        self._zero = time.perf_counter()

    def now_s(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._zero

    async def send(self, job: Job, planned_s: float) -> Record:
        """Send one request and wait for its end. A cancelled one stays under way until `give_up`."""
        opened = self._opened(job, planned_s)
        self._under_way[job.index] = opened
        answer = await self._wire.edit(job.body)
        ended_s = self.now_s()
        said = reply(answer, job.edit.rows)
        record = replace(
            opened,
            ended_s=ended_s,
            outcome=said.outcome,
            status=said.status,
            code=said.code,
            images=said.images,
            stages_ms=said.stages_ms,
            received_bytes=said.received_bytes,
        )
        del self._under_way[job.index]
        self.records.append(record)
        return record

    def give_up(self) -> None:
        """Record what has not ended as unfinished, at this time."""
        now_s = self.now_s()
        self.records += [replace(record, ended_s=now_s) for record in self._under_way.values()]
        self._under_way.clear()

    def _opened(self, job: Job, planned_s: float) -> Record:
        unfinished: Outcome = "unfinished"
        return Record(
            index=job.index,
            kind=job.edit.kind,
            planned_s=planned_s,
            sent_s=self.now_s(),
            ended_s=planned_s,
            outcome=unfinished,
            rows=job.edit.rows,
            code=unfinished,
            row_steps=job.edit.row_steps,
            deadline_s=deadline_s(job.edit.slo, self._solo_s.get(job.edit.kind)),
            sent_bytes=job.body.bytes,
        )


async def open_loop(ledger: Ledger, feed: Feed, times_s: Sequence[float], grace_s: float) -> None:
    """Send a job of `feed` at each time, seconds from the ledger's start."""
    tasks: set[asyncio.Task[Record]] = set()
    for planned_s in times_s:
        await asyncio.sleep(max(0.0, planned_s - ledger.now_s()))
        job = feed.take()
        if job is not None:
            tasks.add(asyncio.create_task(ledger.send(job, planned_s)))
    await _finished(tasks, grace_s)
    ledger.give_up()


async def closed_loop(ledger: Ledger, feed: Feed, concurrency: int, duration_s: float, grace_s: float) -> None:
    """Workers that each send a job of `feed` after the other, for at most so long."""
    tasks = {asyncio.create_task(_work(ledger, feed)) for _ in range(concurrency)}
    with suppress(TimeoutError):
        await asyncio.wait_for(feed.dry.wait(), max(0.0, duration_s - ledger.now_s()))
    feed.close()
    await _finished(tasks, grace_s)
    ledger.give_up()


async def _work(ledger: Ledger, feed: Feed) -> None:
    while job := feed.take():
        record = await ledger.send(job, ledger.now_s())
        if record.outcome != "answered":
            await asyncio.sleep(PAUSE_S)


@asynccontextmanager
async def heartbeat() -> AsyncGenerator[list[float]]:
    """Seconds by which a clock in this event loop woke too late, again and again while the body runs."""
    lags: list[float] = []
    task = asyncio.create_task(_beat(lags))
    try:
        yield lags
    finally:
        task.cancel()
        await asyncio.wait({task})


def deadline_s(slo: Slo, solo_s: float | None) -> float | None:
    """By when the answer is in time, in seconds from its arrival; None where any time is good.

    solo_s: seconds that a request of its kind takes alone, where they are known.
    """
    return slo.scale * solo_s if slo.scale and solo_s else slo.deadline_s


async def _beat(lags: list[float]) -> None:
    while True:
        slept_at = time.perf_counter()
        await asyncio.sleep(HEARTBEAT_S)
        lags.append(max(0.0, time.perf_counter() - slept_at - HEARTBEAT_S))


async def _finished(tasks: Iterable[asyncio.Task[Record] | asyncio.Task[None]], grace_s: float) -> None:
    """Wait so long for all, then cancel the others. Raises what one of them raised."""
    waited = set(tasks)
    if not waited:
        return
    done, hanging = await asyncio.wait(waited, timeout=grace_s)
    for task in hanging:
        task.cancel()
    if hanging:
        await asyncio.wait(hanging)
    for task in done:
        task.result()
