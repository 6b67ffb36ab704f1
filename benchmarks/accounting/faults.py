"""What `benchmarks.accounting` does to the server while it works, and what it reads of it: kills, counters and logs."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from benchmarks.scrape import Scrape
from benchmarks.server import RunningServer

POLL_S = 0.5
REPLACED_WITHIN_S = 180.0
ASK_TIMEOUT_S = 10.0
ENDED_LINE = re.compile(r"^\w+ \S+ \S+ retouch_ingress \S+ (\S+) -- (?:answered|refused) status=(\d+) ")
"""Of the log: the ingress writes one when a request has ended and its caller is still there."""


@dataclass(frozen=True, slots=True)
class Kill:
    """at_s: on the client's clock. replaced_after_s: from then until all replicas serve again, None where they never
    did; of an editor by `GET /metrics`, of another deployment by its processes.
    """

    deployment: str
    pid: int
    at_s: float
    replaced_after_s: float | None


@dataclass
class Watch:
    """Asks `GET /metrics` again and again. last: of each replica that ever told, by its name, what it told last."""

    server: RunningServer
    model: str
    session: aiohttp.ClientSession
    last: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])

    async def ask(self) -> dict[str, dict[str, float]]:
        """Counters and gauges of each replica that answers, by its name."""
        timeout = aiohttp.ClientTimeout(ASK_TIMEOUT_S)
        try:
            async with self.session.get(f"{self.server.url}/metrics", timeout=timeout) as response:
                told = by_replica(Scrape.of(await response.text(), self.model))
        except (aiohttp.ClientError, OSError, ValueError):
            return {}
        self.last.update(told)
        return told

    async def poll(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(POLL_S)

    async def until(self, holds: Callable[[Mapping[str, dict[str, float]]], bool], within_s: float) -> bool:
        """Whether what the replicas tell has come to that in time."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    if holds(await self.ask()):
                        return True
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False

    def total(self, name: str) -> float:
        """Of a counter, over all replicas; of one that has died, as much as it told."""
        return sum(told.get(f"{name}_total", 0.0) for told in self.last.values())


async def kill_editor(watch: Watch, model: str, replicas: int, now_s: Callable[[], float]) -> Kill:
    """SIGKILL to one replica of the model's, and how long it takes until there are so many again, one of them new."""
    known = set(watch.last)
    victims = await asyncio.to_thread(watch.server.editors, model)
    victim, at_s = _killed(victims, now_s)

    def replaced(told: Mapping[str, dict[str, float]]) -> bool:
        return len(told) == replicas and not set(told) <= known and all(one["healthy"] for one in told.values())

    took_s = now_s() - at_s if await watch.until(replaced, REPLACED_WITHIN_S) else None
    return Kill(f"editor of {model}", victim, at_s, took_s)


async def kill_replica(server: RunningServer, deployment: str, now_s: Callable[[], float]) -> Kill:
    """SIGKILL to one replica of the deployment's, and how long it takes until there are as many again."""
    victims = await asyncio.to_thread(server.replicas, deployment)
    victim, at_s = _killed(victims, now_s)
    while now_s() < at_s + REPLACED_WITHIN_S:
        left = {one.pid for one in await asyncio.to_thread(server.replicas, deployment)} - {victim}
        if len(left) >= len(victims):
            return Kill(deployment, victim, at_s, now_s() - at_s)
        await asyncio.sleep(POLL_S)
    return Kill(deployment, victim, at_s, None)


def by_replica(scrape: Scrape) -> dict[str, dict[str, float]]:
    """Metrics of each replica by name, those of its labels' kinds left out."""
    found: dict[str, dict[str, float]] = {}
    for name, values in scrape.values.items():
        for labels, value in values.items():
            said = dict(labels)
            if set(said) == {"replica"}:
                found.setdefault(said["replica"], {})[name] = value
    return found


def logged_ends(logs: Path) -> dict[str, Counter[str]]:
    """Statuses that the ingress' logs tell of each request, by its id."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(logs.glob("replica_retouch_ingress_*.log*")):
        for request_id, status in _ended_lines(path):
            found.setdefault(request_id, Counter())[status] += 1
    return found


def _ended_lines(path: Path) -> Iterator[tuple[str, str]]:
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if match := ENDED_LINE.match(line):
                yield match[1], match[2]


def _killed(victims: list[psutil.Process], now_s: Callable[[], float]) -> tuple[int, float]:
    victim = random.choice(victims)
    at_s = now_s()
    victim.kill()
    return victim.pid, at_s
