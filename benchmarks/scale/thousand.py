"""What a number of GPUs asks of the rest of the cluster: plain arithmetic over what was measured of one edit.

Rates add up, so a kind of process is busy for its time of an edit, times the edits that all GPUs draw in a second. What
is one process in a cluster, however many GPUs it has, bounds the cluster; everything else is multiplied with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.scale.hops import Counted
from benchmarks.scale.processors import Cost

STEPS = 28
"""Of an edit, FLUX.1 Kontext's default."""
BUSY = 0.7
"""The share of a core beyond which a process's own queue makes edits wait."""
SINGLES = ("runs", "quotas")
"""Kinds that are one process a cluster, and take part in edits."""
MANY = ("ProxyActor", "ingress", "codec")


@dataclass(frozen=True, slots=True)
class Gpu:
    """batch rows of a picture of that side, in pixels, take step_s together."""

    side: int
    batch: int
    step_s: float

    @property
    def edits_per_s(self) -> float:
        return self.batch / (STEPS * self.step_s)


H200 = (Gpu(512, 4, 0.240), Gpu(1024, 2, 0.474))
"""Qwen-Image on one H200, as SGLang published it (`serve/backends/timings`)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Of so many GPUs. cores: busy, by kind of process. bytes_per_s: by what is moved."""

    gpus: int
    gpu: Gpu
    cores: Mapping[str, float]
    bytes_per_s: Mapping[str, float]

    @property
    def edits_per_s(self) -> float:
        return self.gpus * self.gpu.edits_per_s


def demand(gpus: int, gpu: Gpu, cost: Cost, counted: Counted) -> Demand:
    """cost, counted: of an edit of the GPU's size."""
    edits_per_s = gpus * gpu.edits_per_s
    return Demand(
        gpus,
        gpu,
        {kind: edits_per_s * spent_ms / 1000 for kind, spent_ms in cost.cpu_ms.items()},
        {name: edits_per_s * count for name, count in counted.bytes.items()},
    )


def most_gpus(gpu: Gpu, costs: Sequence[Cost], kind: str) -> float:
    """That a process of the kind carries alone, in the way to ask that burdens it most."""
    worst_ms = max(cost.cpu_ms.get(kind, 0.0) for cost in costs if cost.side == gpu.side)
    return BUSY * 1000 / (worst_ms * gpu.edits_per_s) if worst_ms else float("inf")
