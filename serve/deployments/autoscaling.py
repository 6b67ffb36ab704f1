"""How many replicas a model needs: by seconds of work, not by requests, of which one may be 50 times another.

Each replica publishes what it has queued and what comes to it, both in seconds that its device would take in full
batches. Ray Serve's controller gathers that and asks the policy.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve.config import AggregationFunction, AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve.settings import ReplicaSettings

logger = logging.getLogger("ray.serve")
LOAD_WINDOW_S = 60.0
LOOK_BACK_S = 15.0
"""Over which what was published is averaged."""

QUEUED, LOAD, REQUEST = "queued_s", "load", "request_s"


class LoadMeter:
    """Seconds of work that come in a second, in the mean of the last minute. clock: seconds, steady."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._came_s: deque[tuple[float, float]] = deque([(clock(), 0.0)])

    def after(self, came_s: float) -> float:
        """came_s: all that has ever come, in seconds of work."""
        now_s = self._clock()
        self._came_s.append((now_s, came_s))
        while self._came_s[1][0] <= now_s - LOAD_WINDOW_S:
            self._came_s.popleft()
        return (came_s - self._came_s[0][1]) / LOAD_WINDOW_S


def published(queued_s: float, came_s: float, jobs: int, load: float) -> dict[str, float]:
    """What a replica says of itself. came_s and jobs: since it is up, which tell how long a request takes."""
    return {QUEUED: queued_s, LOAD: load, REQUEST: came_s / jobs if jobs else 0.0}


class WorkPolicy:
    """As many replicas as keep both the work that is queued and the work that comes within what each may have.

    For the queue alone would be empty, and replicas be ended, just because there are enough of them.
    """

    def __init__(self, max_wait_s: float, max_load: float) -> None:
        self._max_wait_s = max_wait_s
        self._max_load = max_load

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Ray Serve delays what is wanted here."""
        told = context.aggregated_metrics or {}
        unassigned_s = context.total_queued_requests * _mean(told.get(REQUEST, {}))
        queued_s = sum(told.get(QUEUED, {}).values()) + unassigned_s
        load = sum(told.get(LOAD, {}).values())
        for_queue, for_load = queued_s / self._max_wait_s, load / self._max_load
        needed = max(math.ceil(round(max(for_queue, for_load), 2)), int(context.total_num_requests > 0))
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        wanted = min(max(needed, least), most)
        state = dict(context.policy_state)
        if wanted not in (context.target_num_replicas, state.get("told")):
            logger.info(
                "%s has %d replicas and needs %d: %.1f s of work are queued (%.1f s may be for each), and %.2f s of "
                "work come a second (%.2f s may for each)",
                *(context.deployment_name, context.target_num_replicas, needed),
                *(queued_s, self._max_wait_s, load, self._max_load),
            )
        state["told"] = wanted
        return wanted, state


def autoscaling(replicas: ReplicaSettings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=replicas.min,
        max_replicas=replicas.max,
        initial_replicas=max(1, replicas.min),
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
        look_back_period_s=LOOK_BACK_S,
        aggregation_function=AggregationFunction.MEAN,
        policy=AutoscalingPolicy(
            policy_function=WorkPolicy,
            policy_kwargs={"max_wait_s": replicas.max_wait_s, "max_load": replicas.max_load},
        ),
    )


def _mean(values: Mapping[Any, float]) -> float:
    known = [value for value in values.values() if value]
    return sum(known) / len(known) if known else 0.0
