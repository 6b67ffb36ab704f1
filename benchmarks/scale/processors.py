"""Processor time that an edit takes in each kind of process of a server, on a simulated device."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.errors import BenchError
from benchmarks.scale.edits import MODEL, WAYS, Way, edit
from benchmarks.server import ENDED, RunningServer, kind_of, serving
from serve.auth import create_key

SIDES = (256, 512, 1024)
CALLERS = 4
WARM_UP = 8
IDLE_S = 10.0
KEY = "scale"
PLENTY = 10**6
FIRST_OF_WARM_UP = 10**6
"""Its seeds are others than those that are measured, so that no answer is known already."""


@dataclass(frozen=True, slots=True)
class Cost:
    """cpu_ms: of an edit, by kind of process, without what the same processes take when idle.

    side: of the picture in pixels. body_bytes, answer_bytes: of the request and its answer.
    """

    side: int
    way: Way
    edits: int
    cpu_ms: Mapping[str, float]
    body_bytes: int
    answer_bytes: int


def costs(weights: Path, edits: int) -> list[Cost]:
    """Of each size and way to ask, so many edits. weights: a checkpoint's configurations."""
    keys = weights.parent / "keys.yaml"
    key = create_key(keys, KEY, None, {"requests_per_minute": PLENTY, "images_per_minute": PLENTY})
    server = serving(models=[simulated(weights, speed=50)], auth={"keys_file": keys}, limits={"requests_in_flight": 64})
    with server as running, httpx.Client(base_url=running.url, timeout=120, trust_env=False) as http:
        http.headers["authorization"] = f"Bearer {key}"
        for side in SIDES:
            send(http, WARM_UP, side)
        idle = idle_per_s(running)
        return [_cost(running, http, side, way, edits, idle) for side in SIDES for way in WAYS]


def simulated(weights: Path, speed: float, replicas: int = 1) -> dict[str, Any]:
    """An entry of the configuration's list of models."""
    return {
        "id": MODEL,
        "family": "flux_kontext",
        "weights": str(weights),
        "backend": "simulated",
        "simulated": {"timings": "h200-512px", "speed": speed},
        "max_batch": 4,
        "replicas": replicas,
    }


def send(
    http: httpx.Client, count: int, side: int, way: Way = "b64_json", first_seed: int = FIRST_OF_WARM_UP
) -> list[httpx.Response]:
    """So many edits, a few at a time. Raises BenchError where one is refused."""

    def one(number: int) -> httpx.Response:
        sent = edit(side, first_seed + number, way)
        answer = http.post("/v1/images/edits", content=sent.body, headers=sent.headers)
        if not answer.is_success:
            raise BenchError(answer.text)
        return answer

    with ThreadPoolExecutor(CALLERS) as threads:
        return list(threads.map(one, range(count)))


def cpu_s(server: RunningServer) -> dict[str, float]:
    """Processor time of the server's processes until now, in seconds, by kind."""
    kinds: dict[str, float] = {}
    for process in server.processes():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            used = process.cpu_times()
            kind = kind_of(process)
            kinds[kind] = kinds.get(kind, 0.0) + used.user + used.system
    kinds.pop(ENDED, None)
    return kinds


def idle_per_s(server: RunningServer) -> dict[str, float]:
    """Seconds of processor time that nobody asked for, in a second, by kind of process."""
    before, began_s = cpu_s(server), time.monotonic()
    time.sleep(IDLE_S)
    after, took_s = cpu_s(server), time.monotonic() - began_s
    return {kind: (used - before.get(kind, used)) / took_s for kind, used in after.items()}


def _cost(
    server: RunningServer, http: httpx.Client, side: int, way: Way, edits: int, idle: Mapping[str, float]
) -> Cost:
    send(http, WARM_UP, side, way)
    before, began_s = cpu_s(server), time.monotonic()
    answers = send(http, edits, side, way, first_seed=0)
    after, took_s = cpu_s(server), time.monotonic() - began_s
    spent = {kind: used - before.get(kind, used) - took_s * idle.get(kind, 0.0) for kind, used in after.items()}
    return Cost(
        side=side,
        way=way,
        edits=edits,
        cpu_ms={kind: 1000 * max(0.0, seconds) / edits for kind, seconds in spent.items()},
        body_bytes=len(edit(side, 0, way).body),
        answer_bytes=len(answers[0].content),
    )
