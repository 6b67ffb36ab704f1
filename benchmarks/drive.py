"""A measurement from Python: `drive` sends a plan's requests to a server and answers what became of each.

    plan = MixedPlan(load("mixed"), seed=1)
    run = await drive(Server("http://127.0.0.1:8000"), plan, Poisson(2.0), Bounds(requests=100, warmup=8))

In order: the server's facts; warm-up requests; the time that each kind takes alone, where a deadline is a multiple of
it; the server's metrics; the run; the metrics again. The run's clock starts when all bodies are built. In an open loop
a request is sent when it arrives, whatever has become of those before. In a closed loop each worker sends its next
request once its last has ended, and pauses for a moment where that was no answer, so that a refusing server is not
flooded. Once nothing is left to send, or the time is over, what is still under way has `grace_s` left; then it is given
up and recorded as unfinished. A run takes at most `duration_s + grace_s`.
"""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from benchmarks.arrivals import Arrivals, Closed, Given, times_s
from benchmarks.bodies import Shape
from benchmarks.errors import NoAnswer
from benchmarks.loops import Feed, Ledger, closed_loop, heartbeat, open_loop
from benchmarks.machine import load_average, machine
from benchmarks.plan import Edit, Plan
from benchmarks.run import Lag, Load, Run
from benchmarks.scrape import engine
from benchmarks.wire import Reply, Server, Wire, connected, reply

WARMUP_CONCURRENCY = 4
"""Of open loops; a closed loop warms up with its own."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a run ends: after so many requests or so many seconds of sending, whichever is first.

    grace_s: for what is still under way then. warmup: requests before the clock starts, left out of all figures.
    solo_rounds: requests of each kind, one after the other, whose median is the time it takes alone. preparation_s: the
    most that warm-up and solo requests take together.
    """

    requests: int | None = None
    duration_s: float = 600.0
    grace_s: float = 60.0
    warmup: int = 0
    solo_rounds: int = 3
    preparation_s: float = 900.0


async def drive(
    server: Server,
    plan: Plan,
    arrivals: Arrivals,
    bounds: Bounds | None = None,
    label: str = "",
    together: asyncio.Barrier | None = None,
    solo_s: Mapping[str, float] | None = None,
    after_s: float = 0.0,
) -> Run:
    """One measurement. label: groups runs in plots; by default the model and the plan. solo_s: seconds that kinds take
    alone, in place of measuring them: runs to be compared by their share within deadline need the same ones.

    Several may run in one event loop, such as the same arrivals to two models of one server. together: lets the clocks
    of as many drives as it has parties start at one time, each `after_s` later; start them in a TaskGroup, which ends
    all if one fails.
    Raises NoServer, NoAnswer where the preparation gets none, or BenchError.
    """
    bounds = bounds or Bounds()
    async with connected(server) as wire:
        facts = await wire.facts()
        model = str(facts.get("id") or server.shape.model)
        known_s = await _prepared(_Rehearsal(wire, plan, server.shape), arrivals, bounds, solo_s or {})
        schedule = _schedule(plan, arrivals, bounds)
        limit = _limit(plan, bounds) if schedule is None else len(schedule)
        feed = await asyncio.to_thread(Feed, plan, server.shape, limit)
        load_before, before = load_average(), await wire.scrape(model)
        if together:
            await together.wait()
        await asyncio.sleep(after_s)
        ledger = Ledger(wire, known_s)
        async with heartbeat() as lags:
            if isinstance(arrivals, Closed):
                await closed_loop(ledger, feed, arrivals.concurrency, bounds.duration_s, bounds.grace_s)
            else:
                await open_loop(ledger, feed, schedule or [], bounds.grace_s)
        after = await wire.scrape(model)
    return Run(
        label=label or " ".join(part for part in (model, plan.name) if part),
        url=server.root,
        form=server.shape.form,
        extra_fields=sorted(server.shape.extra_fields),
        model=server.shape.model,
        facts=facts,
        workload=plan.name,
        plan=plan.facts,
        withheld=_withheld(plan, server.shape),
        load=load_of(arrivals, schedule or []),
        seed=plan.seed,
        requests=bounds.requests,
        duration_s=bounds.duration_s,
        grace_s=bounds.grace_s,
        warmup=bounds.warmup,
        started_at=ledger.started_at,
        wall_s=max((record.ended_s for record in ledger.records), default=0.0),
        solo_s=known_s,
        loop_lag=_lag(lags),
        engine=engine(before, after),
        machine=machine(load_before),
        records=sorted(ledger.records, key=lambda record: record.index),
    )


@dataclass(frozen=True, slots=True)
class _Rehearsal:
    """Sends requests that are not measured."""

    wire: Wire
    plan: Plan
    shape: Shape

    async def warm_up(self, requests: int, concurrency: int) -> None:
        """Requests of all kinds in turn, a few at a time. Raises NoAnswer where none is answered."""
        kinds = len(self.plan.kinds)
        edits = [self.plan.rehearsal(number % kinds, number) for number in range(requests)]
        gate = asyncio.Semaphore(concurrency)

        async def one(edit: Edit) -> Reply:
            async with gate:
                return (await self._sent(edit))[0]

        replies = await asyncio.gather(*(one(edit) for edit in edits))
        if replies and not any(said.outcome == "answered" for said in replies):
            raise NoAnswer(f"no warm-up request was answered: {_why(replies[0])}")

    async def solo_s(self, kind: int, first: int, rounds: int) -> float:
        """Seconds that a request of the kind takes with nothing beside it, the median of so many."""
        took_s: list[float] = []
        for number in range(first, first + rounds):
            said, seconds = await self._sent(self.plan.rehearsal(kind, number))
            if said.outcome != "answered":
                name = self.plan.kinds[kind]
                raise NoAnswer(f"the solo time of {name} cannot be measured: {_why(said)}")
            took_s.append(seconds)
        return statistics.median(took_s)

    async def _sent(self, edit: Edit) -> tuple[Reply, float]:
        body = await asyncio.to_thread(self.shape.body, edit, self.plan.pictures)
        began_s = asyncio.get_running_loop().time()
        answer = await self.wire.edit(body)
        took_s = asyncio.get_running_loop().time() - began_s
        return reply(answer, edit.rows), took_s


def _why(said: Reply) -> str:
    return f"{said.code} ({said.message})" if said.message else said.code


async def _prepared(
    rehearsal: _Rehearsal, arrivals: Arrivals, bounds: Bounds, given_s: Mapping[str, float]
) -> dict[str, float]:
    """Warm the server up; the time alone of each kind that needs it, in seconds: given, the plan's own, or measured."""
    concurrency = arrivals.concurrency if isinstance(arrivals, Closed) else WARMUP_CONCURRENCY
    plan = rehearsal.plan
    solo_s = {name: seconds for name, seconds in given_s.items() if name in plan.kinds}
    try:
        async with asyncio.timeout(bounds.preparation_s):
            await rehearsal.warm_up(bounds.warmup, concurrency)
            numbers = count(bounds.warmup, bounds.solo_rounds)
            for kind, (name, first) in enumerate(zip(plan.kinds, numbers, strict=False)):
                slo = plan.rehearsal(kind, first).slo
                if name in solo_s:
                    continue
                if slo.solo_s:
                    solo_s[name] = slo.solo_s
                elif slo.scale:
                    solo_s[name] = await rehearsal.solo_s(kind, first, bounds.solo_rounds)
    except TimeoutError:
        raise NoAnswer(f"warm-up and solo requests were not answered within {bounds.preparation_s:g} s") from None
    return solo_s


def _schedule(plan: Plan, arrivals: Arrivals, bounds: Bounds) -> list[float] | None:
    if isinstance(arrivals, Closed):
        return None
    return times_s(arrivals, plan.seed, _limit(plan, bounds), bounds.duration_s)


def _limit(plan: Plan, bounds: Bounds) -> int | None:
    limits = [limit for limit in (plan.length, bounds.requests) if limit is not None]
    return min(limits, default=None)


def _withheld(plan: Plan, shape: Shape) -> list[str]:
    edits = [plan.rehearsal(kind, 0) for kind in range(len(plan.kinds))]
    return sorted({name for edit in edits for name in shape.withheld(edit)})


def load_of(arrivals: Arrivals, schedule: Sequence[float]) -> Load:
    """The rate of a trace is that of what was scheduled, which bounds may have made less than all of it."""
    if isinstance(arrivals, Closed):
        return Load("closed", concurrency=arrivals.concurrency)
    if isinstance(arrivals, Given):
        return Load("trace", rate=_rate(schedule), origin=arrivals.origin)
    return Load("poisson", rate=arrivals.rate)


def _rate(times: Sequence[float]) -> float | None:
    """A second, in the mean; None where there is no span to take it over."""
    span_s = times[-1] - times[0] if times else 0.0
    return (len(times) - 1) / span_s if span_s > 0 else None


def _lag(lags: Sequence[float]) -> Lag:
    if not lags:
        return Lag(0.0, 0.0, 0.0)
    return Lag(float(np.mean(lags)), float(np.percentile(lags, 99)), max(lags))
