"""What was measured, as JSON, and the page that tells it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self

from pydantic import TypeAdapter

from benchmarks.run import Machine
from benchmarks.scale.hops import Counted, Measured
from benchmarks.scale.processors import Cost
from benchmarks.scale.replicas import REQUESTS_PER_S, Overhead
from benchmarks.scale.thousand import BUSY, H200, MANY, SINGLES, STEPS, Gpu, demand, most_gpus

FILE = "scale.json"
FLAT = 0.2
"""How far the cost of a request may move as replicas grow."""
KINDS = ("ProxyActor", "ingress", "codec", "editor-simulated", "runs", "quotas", "raylet")


@dataclass(frozen=True, slots=True)
class Findings:
    machine: Machine
    costs: Sequence[Cost]
    counted: Sequence[Counted]
    measured: Sequence[Measured]
    overheads: Sequence[Overhead]

    def cost(self, side: int, way: str = "b64_json, may be retried") -> Cost:
        return next(one for one in self.costs if (one.side, one.way) == (side, way))

    def hops(self, side: int) -> Counted:
        return next(one for one in self.counted if one.side == side)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` has written there."""
        return TypeAdapter(cls).validate_json((folder / FILE).read_bytes())

    def write(self, folder: Path) -> str:
        """`scale.json` and `scale.md`; the page."""
        folder.mkdir(parents=True, exist_ok=True)
        told = page(self)
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        (folder / "scale.md").write_text(told, encoding="utf-8")
        return told


def page(found: Findings) -> str:
    machine = found.machine
    return "\n".join(
        [
            "# What serving costs as a cluster grows",
            "",
            f"`python -m benchmarks.scale` on {machine.cores} cores of {machine.cpu}, load {machine.load_before:.1f} "
            f"before and {machine.load_after:.1f} after; Ray {machine.versions['ray']}. The device is simulated, the "
            "pictures are as large as photographs, and every request carries an API key.",
            "",
            "## Processor time of an edit",
            "",
            "Milliseconds in each kind of process, without what it takes when idle. `may be retried`: with the header "
            "that OpenAI's clients send, for which an edit is owned by `runs`. The editor's is its own work and the "
            "simulated device's arithmetic, not a model's.",
            "",
            *_costs(found),
            "",
            "## Bytes of an edit",
            "",
            "Counted in what the deployments hand each other, and measured as what nodes received from the object "
            "stores of others, with the head's proxy, the codec and the editor on a node each.",
            "",
            *_hops(found),
            "",
            "## As replicas grow",
            "",
            f"{REQUESTS_PER_S:g} edits a second to one model, whatever the number of its replicas; {_rounds(found)} "
            "runs each, in turns. Beside the drawing: the time of a request less its stages on the device. Medians, "
            "and the lowest and highest run.",
            "",
            *_growth(found),
            "",
            "## A thousand GPUs",
            "",
            *_thousand(found),
            "",
        ]
    )


def _costs(found: Findings) -> list[str]:
    shown = [kind for kind in KINDS if any(one.cpu_ms.get(kind, 0.0) >= 1 for one in found.costs)]
    rows = [
        f"| {one.side} | {one.way} | {' | '.join(f'{one.cpu_ms.get(kind, 0.0):.0f}' for kind in shown)} | "
        f"{sum(one.cpu_ms.values()):.0f} | {one.edits} |"
        for one in found.costs
    ]
    return [
        f"| pixels | asked for | {' | '.join(shown)} | all | edits |",
        "|---" * (len(shown) + 4) + "|",
        *rows,
    ]


def _hops(found: Findings) -> list[str]:
    names = list(found.counted[0].bytes)
    rows = [f"| {one.side} | {' | '.join(_bytes(one.bytes[name]) for name in names)} |" for one in found.counted]
    nodes = list(found.measured[0].received)
    told = [
        f"| {one.side} | {' | '.join(_bytes(one.received[name]) for name in nodes)} | {one.edits} |"
        for one in found.measured
    ]
    return [
        f"| pixels | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *rows,
        "",
        f"| pixels | {' | '.join(f'received by {name}' for name in nodes)} | edits |",
        "|---" * (len(nodes) + 2) + "|",
        *told,
    ]


def _growth(found: Findings) -> list[str]:
    counts = sorted({one.replicas for one in found.overheads})
    rows: list[str] = []
    to_one: dict[str, list[float]] = {"time": [], "processor time": []}
    base_ms = base_cpu_ms = 0.0
    for count in counts:
        runs = [one for one in found.overheads if one.replicas == count]
        waits, spent, idle = ([f(one) for one in runs] for f in (_wait, _spent, _idle))
        base_ms, base_cpu_ms = base_ms or median(waits), base_cpu_ms or median(spent)
        ratios = median(waits) / base_ms, median(spent) / base_cpu_ms
        for told, ratio in zip(to_one.values(), ratios, strict=True):
            told.append(ratio)
        rows.append(
            f"| {count} | {min(one.used for one in runs)} | {_spread(waits)} | {ratios[0]:.2f} | "
            f"{_spread(spent)} | {ratios[1]:.2f} | {_spread(idle)} |"
        )
    return [
        "| replicas | that drew | beside the drawing, ms | to one | processor time a request, ms | to one | "
        "idle, ms of processor time a second |",
        "|---" * 7 + "|",
        *rows,
        "",
        f"Flat within {100 * FLAT:g} % is the goal. " + " ".join(_flatness(*one, counts[-1]) for one in to_one.items()),
    ]


def _flatness(what: str, to_one: Sequence[float], most: int) -> str:
    """to_one: ratios to what it is with one replica."""
    is_met = "met" if max(abs(one - 1) for one in to_one) <= FLAT else "not met"
    return f"The {what} of a request, up to {most} replicas: {min(to_one):.2f} to {max(to_one):.2f}, {is_met}."


def _thousand(found: Findings) -> list[str]:
    lines = [
        f"A GPU draws edits of {STEPS} steps as fast as Qwen-Image's published steps on an H200 allow: "
        + ", ".join(f"{gpu.edits_per_s:.2f}/s at {gpu.side} px in batches of {gpu.batch}" for gpu in H200)
        + ". The rest is the tables above times that rate, with OpenAI's clients, in cores of this machine.",
        "",
        "| | " + " | ".join(f"1,000 GPUs, {gpu.side} px" for gpu in H200) + " | one GPU, each |",
        "|---|" + "---|" * (len(H200) + 1),
    ]
    whole = [demand(1000, gpu, found.cost(gpu.side), found.hops(gpu.side)) for gpu in H200]
    single = [demand(1, gpu, found.cost(gpu.side), found.hops(gpu.side)) for gpu in H200]
    lines.append(
        _row("edits a second", [f"{one.edits_per_s:.0f}" for one in whole], [one.edits_per_s for one in single])
    )
    for kind in (*MANY, *SINGLES):
        each = [one.cores.get(kind, 0.0) for one in single]
        lines.append(_row(f"cores of {kind}", [f"{one.cores.get(kind, 0.0):.1f}" for one in whole], each))
    for name in found.counted[0].bytes:
        moved = [f"{one.bytes_per_s[name] / 1e6:,.0f} MB/s" for one in whole]
        each_moved = " / ".join(f"{one.bytes_per_s[name] / 1e6:.2f} MB/s" for one in single)
        lines.append(f"| {name} | {' | '.join(moved)} | {each_moved} |")
    lines += [
        "",
        f"What is one process a cluster bounds its size, at {100 * BUSY:g} % of a core:",
        "",
        "| | " + " | ".join(f"GPUs at {gpu.side} px" for gpu in H200) + " |",
        "|---|" + "---|" * len(H200),
        *(_bound(found, kind) for kind in SINGLES),
    ]
    return lines


def _bound(found: Findings, kind: str) -> str:
    return f"| {kind} | {' | '.join(f'{_most(found, gpu, kind):,.0f}' for gpu in H200)} |"


def _most(found: Findings, gpu: Gpu, kind: str) -> float:
    return most_gpus(gpu, found.costs, kind)


def _row(name: str, whole: Sequence[str], each: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(whole)} | {' / '.join(f'{value:.3f}' for value in each)} |"


def _rounds(found: Findings) -> int:
    return sum(one.replicas == 1 for one in found.overheads)


def _wait(one: Overhead) -> float:
    return one.median_ms


def _spent(one: Overhead) -> float:
    return one.cpu_ms


def _idle(one: Overhead) -> float:
    return one.idle_cpu_ms


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count / 1e3:.1f} kB"
