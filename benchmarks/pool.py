"""A pool of replicas in virtual time: Ray Serve's rules of delay, our scheduler in each replica, any policy above.

A request goes to the replica with the fewest of them, as long as one has fewer than `max_ongoing`; else it waits.
A replica that starts takes nothing for a while, and one that is to stop ends what it has; both hold their GPU.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.serve import autoscaling_policy
from ray.serve.autoscaling_policy import _apply_autoscaling_config  # pyright: ignore[reportPrivateUsage]
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serve.deployments.autoscaling import LoadMeter, published
from serve.engine.policy import Row
from serve.engine.scheduler import StepScheduler

StepSeconds = Callable[[int], float]
"""Of a step, by its passes."""

CONTROL_S = 2.0
"""Between two looks of the controller. A replica publishes as often, and what it published is averaged."""


@dataclass(frozen=True, slots=True)
class Request:
    """Of `rows` pictures, each of so many steps."""

    at_s: float
    steps: int
    rows: int


@dataclass(frozen=True, slots=True)
class Device:
    """limit: passes of the largest batch. start_s: from when a replica is wanted until it takes requests."""

    step_s: StepSeconds
    limit: int
    start_s: float


@dataclass(frozen=True, slots=True)
class Day:
    """ended_s: of each request. gpus: times and how many were held from then on."""

    ended_s: Sequence[float]
    gpus: Sequence[tuple[float, int]]

    def gpu_hours(self) -> float:
        spans = zip(self.gpus, self.gpus[1:], strict=False)
        return sum((until_s - at_s) * held for (at_s, held), (until_s, _) in spans) / 3600


@dataclass(frozen=True, slots=True)
class _Costs:
    device: Device

    def step_s(self, key: Hashable, passes: int) -> float:
        return self.device.step_s(passes)

    def limit(self, key: Hashable) -> int:
        return self.device.limit


class _Replica:
    def __init__(self, name: str, device: Device, ready_s: float, clock: Callable[[], float]) -> None:
        self.name = name
        self.ready_s = ready_s
        self.stops = False
        self.busy = False
        self.jobs: dict[int, int] = {}
        """Rows that are left of each request."""
        self.scheduler = StepScheduler(_Costs(device), resident_rows=4 * device.limit)
        self._of: dict[int, int] = {}
        self._came_s, self._taken = 0.0, 0
        self._load = LoadMeter(clock)
        self._told: deque[dict[str, float]] = deque()

    def take(self, number: int, request: Request, rows: Iterator[int]) -> None:
        before_s = self.scheduler.queued_s()
        self.jobs[number] = request.rows
        for row in (next(rows) for _ in range(request.rows)):
            self._of[row] = number
            self.scheduler.add(Row(row, number, "k", request.steps, 1, request.at_s))
        self._came_s += self.scheduler.queued_s() - before_s
        self._taken += 1

    def ended(self, rows: Sequence[int]) -> list[int]:
        """The requests that end with these rows."""
        over: list[int] = []
        for number in map(self._of.pop, rows):
            self.jobs[number] -= 1
            if not self.jobs[number]:
                del self.jobs[number]
                over.append(number)
        return over

    def publish(self, most: int) -> dict[str, float]:
        """The mean of the last looks."""
        queued_s, load = self.scheduler.queued_s(), self._load.after(self._came_s)
        self._told.append(published(queued_s, self._came_s, self._taken, load))
        while len(self._told) > most:
            self._told.popleft()
        return {name: sum(told[name] for told in self._told) / len(self._told) for name in self._told[0]}


@dataclass(slots=True)
class Pool:
    """policy: as Ray Serve calls it. max_ongoing: requests that a replica may have."""

    device: Device
    config: AutoscalingConfig
    policy: Callable[[AutoscalingContext], tuple[float, dict[str, Any]]]
    max_ongoing: int
    now_s: float = 0.0
    _replicas: list[_Replica] = field(default_factory=list[_Replica])
    _waiting: deque[int] = field(default_factory=deque[int])
    _counted: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    _state: dict[str, Any] = field(default_factory=dict[str, Any])
    _events: list[tuple[float, int, Callable[[], None]]] = field(
        default_factory=list[tuple[float, int, Callable[[], None]]]
    )
    _order: Iterator[int] = field(default_factory=count)
    _names: Iterator[int] = field(default_factory=count)
    _rows: Iterator[int] = field(default_factory=count)
    _gpus: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def serve(self, requests: Sequence[Request], until_s: float) -> Day:
        """All requests, which are in the order of their times, and the pool until then."""
        ended_s = [math.inf] * len(requests)
        decide = _apply_autoscaling_config(self.policy)
        for _ in range(max(1, self.config.min_replicas)):
            self._replicas.append(_Replica(str(next(self._names)), self.device, 0.0, lambda: self.now_s))
        for number, request in enumerate(requests):
            self._at(request.at_s, lambda number=number: self._waiting.append(number))
        self._at(0.0, lambda: self._control(decide, until_s))
        clock = SimpleNamespace(time=lambda: self.now_s)
        with patch.object(autoscaling_policy, "time", clock):  # its rules of delay look at the clock themselves
            self._run(requests, ended_s)
        return Day(ended_s, [*self._gpus, (self.now_s, len(self._replicas))])

    def _run(self, requests: Sequence[Request], ended_s: list[float]) -> None:
        while self._events:
            self.now_s = self._events[0][0]
            while self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
            self._assign(requests)
            for replica in self._replicas:
                if not replica.busy:
                    self._step(replica, ended_s)

    def _at(self, at_s: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), happens))

    def _assign(self, requests: Sequence[Request]) -> None:
        while self._waiting:
            ready = [one for one in self._replicas if one.ready_s <= self.now_s and not one.stops]
            least = min(ready, key=lambda one: len(one.jobs), default=None)
            if least is None or len(least.jobs) >= self.max_ongoing:
                return
            number = self._waiting.popleft()
            least.take(number, requests[number], self._rows)

    def _step(self, replica: _Replica, ended_s: list[float]) -> None:
        for row in replica.scheduler.admit(self.now_s):
            replica.scheduler.begin(row)
        batch = replica.scheduler.schedule(self.now_s)
        if batch is None:
            return
        seconds = self.device.step_s(batch.passes)
        replica.busy = True

        def end() -> None:
            replica.busy = False
            for number in replica.ended(replica.scheduler.advance(batch, seconds)):
                ended_s[number] = self.now_s

        self._at(self.now_s + seconds, end)

    def _control(self, decide: Callable[[AutoscalingContext], tuple[int, dict[str, Any]]], until_s: float) -> None:
        looks = max(1, round(self.config.look_back_period_s / CONTROL_S))
        kept = [one for one in self._replicas if not one.stops]
        running = [one for one in kept if one.ready_s <= self.now_s]
        told = {one.name: one.publish(looks) for one in running}
        self._counted.append((sum(len(one.jobs) for one in self._replicas) + len(self._waiting), len(self._waiting)))
        while len(self._counted) > looks:
            self._counted.popleft()
        names = next(iter(told.values()), {})
        wanted, self._state = decide(
            AutoscalingContext(
                deployment_id=None,  # pyright: ignore[reportArgumentType]
                deployment_name="pool",
                app_name=None,
                current_num_replicas=len(running),
                target_num_replicas=len(kept),
                running_replicas=[],
                total_num_requests=sum(all_ for all_, _ in self._counted) / len(self._counted),
                total_queued_requests=sum(waiting for _, waiting in self._counted) / len(self._counted),
                aggregated_metrics={name: {one: of[name] for one, of in told.items()} for name in names},  # pyright: ignore[reportArgumentType]
                raw_metrics={},
                capacity_adjusted_min_replicas=self.config.min_replicas,
                capacity_adjusted_max_replicas=self.config.max_replicas,
                policy_state=self._state,
                last_scale_up_time=None,
                last_scale_down_time=None,
                current_time=self.now_s,
                config=self.config,
            )
        )
        self._scale(kept, min(max(wanted, self.config.min_replicas), self.config.max_replicas))
        if self.now_s + CONTROL_S <= until_s or self._waiting or any(one.jobs for one in self._replicas):
            self._at(self.now_s + CONTROL_S, lambda: self._control(decide, until_s))

    def _scale(self, kept: Sequence[_Replica], wanted: int) -> None:
        for _ in range(wanted - len(kept)):
            ready_s = self.now_s + self.device.start_s
            self._replicas.append(_Replica(str(next(self._names)), self.device, ready_s, lambda: self.now_s))
            self._at(ready_s, lambda: None)
        for replica in sorted(kept, key=lambda one: (one.ready_s <= self.now_s, len(one.jobs)))[
            : max(0, len(kept) - wanted)
        ]:
            replica.stops = True
        self._replicas = [one for one in self._replicas if one.jobs or not one.stops]
        self._note_gpus()

    def _note_gpus(self) -> None:
        if not self._gpus or self._gpus[-1][1] != len(self._replicas):
            self._gpus.append((self.now_s, len(self._replicas)))
