"""What a request costs beside its drawing as a model's replicas grow, at the same load, on simulated devices."""

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.scale.edits import edit
from benchmarks.scale.processors import FIRST_OF_WARM_UP, cpu_s, idle_per_s, simulated
from benchmarks.server import RunningServer, serving

SIDE = 256
SPEED = 4.0
REQUESTS_PER_S = 4.0
WARM_UP_EACH = 4
DRAWING = ("queue", "encode", "denoise", "vae")
"""Stages that are the device's, or a wait for it."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Of one run. latency_ms: of each request, what its time is beside that of drawing. cpu_ms: of a request, in all
    processes, without what they take when idle. idle_cpu_ms: in a second, of all processes. used: replicas that drew.
    """

    replicas: int
    requests: int
    latency_ms: Sequence[float]
    cpu_ms: float
    idle_cpu_ms: float
    used: int

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latency_ms)


def overhead(weights: Path, replicas: int, seconds: float) -> Overhead:
    """weights: a checkpoint's configurations. seconds: of load."""
    models = [simulated(weights, SPEED, replicas)]
    with (
        serving(models=models, limits={"requests_in_flight": 64}) as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http,
    ):
        _paced(http, WARM_UP_EACH * replicas, first_seed=FIRST_OF_WARM_UP)
        idle = sum(idle_per_s(server).values())
        before, began_s = _cpu(server), time.monotonic()
        latency_ms = _paced(http, round(REQUESTS_PER_S * seconds), first_seed=0)
        spent_s, took_s = _cpu(server) - before, time.monotonic() - began_s
        used = sum(steps > 0 for steps in _steps(http).values())
    cpu_ms = 1000 * (spent_s - idle * took_s) / len(latency_ms)
    return Overhead(replicas, len(latency_ms), latency_ms, cpu_ms, 1000 * idle, used)


def _paced(http: httpx.Client, count: int, first_seed: int) -> list[float]:
    """Milliseconds beside the drawing, of requests that are sent at even times whatever becomes of those before."""
    began_s = time.monotonic()

    def one(number: int) -> float:
        threading.Event().wait(max(0.0, began_s + number / REQUESTS_PER_S - time.monotonic()))
        sent, at_s = edit(SIDE, first_seed + number), time.monotonic()
        answer = http.post("/v1/images/edits", content=sent.body, headers=sent.headers).raise_for_status()
        stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        return 1000 * (time.monotonic() - at_s) - sum(float(stages[name]) for name in DRAWING)

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(one, range(count)))


def _cpu(server: RunningServer) -> float:
    return sum(cpu_s(server).values())


def _steps(http: httpx.Client) -> Mapping[str, float]:
    """By replica."""
    lines = http.get("/metrics").text.splitlines()
    return {line: float(line.rpartition(" ")[2]) for line in lines if line.startswith("retouch_engine_steps_total{")}
