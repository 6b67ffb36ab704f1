"""What `benchmarks.gpu` found: its figures, how they are derived, and how they are shown. Needs no GPU.

An operation is a multiplication or an addition: a product of (m, k) by (k, n) matrices takes 2 m k n, and likewise each
convolution and both products of an attention, as `torch.utils.flop_counter` counts them on tensors without memory.
What is not a product, as normalisations and activations, counts nothing, so that a network's share of the ceiling is
never flattered by work that is cheap to do.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Way = Literal["eager", "CUDA graphs", "torch.compile", "torch.compile, CUDA graphs", "TensorRT, CUDA graphs"]
TERA = 1e12
FLOPS = "2 m k n for each matrix product, convolution and attention product (torch.utils.flop_counter)"


@dataclass(frozen=True, slots=True)
class Timing:
    """Of the device, in milliseconds."""

    median_ms: float
    min_ms: float
    max_ms: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Row:
    """One network at one size. pixels: the side of the picture drawn. tflop: of one call. peak_gib: of device memory
    while it ran, the weights included. skipped: why there is no timing, or empty."""

    network: str
    way: Way
    pixels: int
    batch: int
    tflop: float
    timing: Timing | None = None
    peak_gib: float = 0.0
    skipped: str = ""

    @property
    def tflop_per_s(self) -> float:
        return self.tflop / self.timing.median_ms * 1000 if self.timing else 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """A share of the ceiling that the quickest way is to reach."""

    network: str
    pixels: int
    batch: int
    share: float


GOALS = (Goal("FLUX.1 Kontext denoiser", 1024, 1, 0.72), Goal("FLUX.1 Kontext denoiser", 512, 1, 0.60))


@dataclass(slots=True)
class Report:
    """machine: facts by name. ceiling: of a large matrix product, ceiling_tflop of them. tensorrt: what of it runs on
    this GPU."""

    machine: Mapping[str, str]
    ceiling_tflop: float
    ceiling: Timing | None = None
    rows: list[Row] = field(default_factory=list[Row])
    tensorrt: str = "not looked for"
    flops: str = FLOPS

    @property
    def ceiling_tflop_per_s(self) -> float:
        return self.ceiling_tflop / self.ceiling.median_ms * 1000 if self.ceiling else 0.0

    def share(self, row: Row) -> float:
        """Of the ceiling that the row reaches; 0 where either was not measured."""
        return row.tflop_per_s / self.ceiling_tflop_per_s if self.ceiling else 0.0


@dataclass(frozen=True, slots=True)
class Budget:
    """seconds: for all. clock: of seconds."""

    seconds: float
    started_s: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of_minutes(cls, minutes: float, clock: Callable[[], float] = time.monotonic) -> "Budget":
        return cls(minutes * 60, clock(), clock)

    @property
    def left_s(self) -> float:
        return self.started_s + self.seconds - self.clock()

    def lacks(self, expected_s: float) -> str:
        """Why something that takes so long is not begun; empty where it is."""
        if expected_s <= self.left_s:
            return ""
        return f"no time: about {expected_s:.0f} s of {max(0.0, self.left_s):.0f} s left"


def timing_of(milliseconds: Sequence[float]) -> Timing:
    return Timing(median(milliseconds), min(milliseconds), max(milliseconds), len(milliseconds))


def tflop_of(module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Of one call. module and inputs: on the device `meta`, where nothing is computed."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(**inputs)
    return counter.get_total_flops() / TERA


def markdown(report: Report) -> str:
    facts = "\n".join(f"- {name}: {fact}" for name, fact in report.machine.items())
    lines = [
        "# On one GPU",
        "",
        facts,
        f"- ceiling, the product of two large bfloat16 matrices: {_ceiling(report)}",
        f"- operations: {report.flops}",
        f"- TensorRT: {report.tensorrt}",
        "",
        "Median of the repeats, and their range, by the device's own events. Share: of the ceiling.",
        "",
        "| network | way | pixels | batch | ms | min to max | TFLOP | TFLOP/s | share | peak GiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(report, row) for row in report.rows),
        "",
        *(f"- {verdict}" for verdict in verdicts(report)),
        "",
    ]
    return "\n".join(lines)


def verdicts(report: Report, goals: Iterable[Goal] = GOALS) -> list[str]:
    """Whether each goal was reached, in a sentence."""
    said: list[str] = []
    for goal in goals:
        where = (goal.network, goal.pixels, goal.batch)
        shares = [report.share(row) for row in report.rows if (row.network, row.pixels, row.batch) == where]
        best = max(shares, default=0.0)
        end = "not measured" if not best else f"{best:.2f}, {'reached' if best >= goal.share else 'missed'}"
        said.append(
            f"{goal.network}, {goal.pixels} px, batch {goal.batch}: goal {goal.share:.2f} of the ceiling; {end}"
        )
    return said


def write(report: Report, folder: Path) -> None:
    """`gpu.json` and `gpu.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    derived = {"ceiling_tflop_per_s": report.ceiling_tflop_per_s, "goals": verdicts(report)}
    rows = [asdict(row) | {"tflop_per_s": row.tflop_per_s, "share": report.share(row)} for row in report.rows]
    content = asdict(report) | derived | {"rows": rows}
    (folder / "gpu.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(markdown(report), encoding="utf-8")


def _ceiling(report: Report) -> str:
    if report.ceiling is None:
        return "not measured"
    slowest, fastest = (report.ceiling_tflop / ms * 1000 for ms in (report.ceiling.max_ms, report.ceiling.min_ms))
    return f"{report.ceiling_tflop_per_s:.0f} TFLOP/s ({slowest:.0f} to {fastest:.0f})"


def _line(report: Report, row: Row) -> str:
    facts = [row.network, row.way, str(row.pixels), str(row.batch)]
    if row.timing is None:
        return f"| {' | '.join([*facts, row.skipped, '', f'{row.tflop:.2f}', '', '', ''])} |"
    times = [f"{row.timing.median_ms:.2f}", f"{row.timing.min_ms:.2f} to {row.timing.max_ms:.2f}"]
    rates = [f"{row.tflop:.2f}", f"{row.tflop_per_s:.0f}", f"{report.share(row):.2f}", f"{row.peak_gib:.1f}"]
    return f"| {' | '.join([*facts, *times, *rates])} |"
