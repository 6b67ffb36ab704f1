"""CPUs, memory and shared memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cli.doctor.executors import computes_on_cpu, executors
from serve.cli.doctor.findings import Finding, gib, ok, warning
from serve.cli.doctor.network import is_served
from serve.cli.doctor.weights import weights_bytes
from serve.cpus import usable_cpus

if TYPE_CHECKING:
    from serve.settings import ModelSettings, Settings

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray keeps its objects, if it has room."""


def cpus(settings: "Settings") -> Iterator[Finding]:
    usable = usable_cpus()
    found = f"{usable} of this machine's {os.cpu_count() or usable} may be used (affinity, control groups)"
    threads = [model.threads or usable for model in _on_cpus(settings) for _ in range(max(1, model.replicas.min))]
    if sum(threads) <= usable:
        yield ok("cpus", found)
        return
    found += f"; the replicas that compute on them run {sum(threads)} threads"
    yield warning("cpus", found, f"set each model's threads, so that they are at most {usable} together")


def memory(settings: "Settings") -> Iterator[Finding]:
    from serve.backends.memory import CpuMemory  # noqa: PLC0415
    from serve.settings import object_store_bytes  # noqa: PLC0415

    meter = CpuMemory()
    free = meter.capacity_bytes() - meter.used_bytes()
    if is_served(settings.server):
        yield ok("memory", f"{gib(free)} free beside the server that runs")
        return
    store = object_store_bytes(settings)
    wanted = store + sum(
        weights_bytes(model) * max(1, model.replicas.min) for model in settings.models if computes_on_cpu(model)
    )
    found = f"{gib(free)} free (machine, control groups); requests and the weights on CPUs take up to {gib(wanted)}"
    if free >= wanted:
        yield ok("memory", found)
    else:
        advice = "give it more, lower limits.bodies_bytes or replicas, or serve a smaller model or precision"
        yield warning("memory", found, advice)


def shared_memory(settings: "Settings", place: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """Ray looks at what is free there, and takes a folder of /tmp, which is a disk's, where it is too little."""
    from serve.settings import object_store_bytes  # noqa: PLC0415

    if not place.is_dir():
        yield ok("shared memory", f"this system has no {place}")
        return
    room, wanted = os.statvfs(place), object_store_bytes(settings)
    free = room.f_frsize * (room.f_blocks if is_served(settings.server) else room.f_bavail)
    found = f"{gib(free)} in {place}; Ray's object store wants {gib(wanted)} (twice limits.bodies_bytes)"
    if free >= wanted:
        yield ok("shared memory", found)
    else:
        advice = f"make it larger (docker run --shm-size={-(-wanted // 2**20)}m), or lower limits.bodies_bytes"
        yield warning("shared memory", f"{found}, and slowly uses a disk instead", advice)


def _on_cpus(settings: "Settings") -> "list[ModelSettings]":
    return [model for model in settings.models if any(computes_on_cpu(own) for own in executors(model))]
