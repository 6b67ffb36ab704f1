"""The figures that the project holds itself to, and how a set of measurements stands against them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.measured import Measured
from benchmarks.run import simulated

SPEED = 2
ACCOUNTED_SPEED = 20
"""How many times as fast as their tables the simulated devices run: in the suite, and in its accounting."""
ACCOUNTED = 1_000
"""Requests of the suite's accounting."""

H200, LINEAR = simulated("h200-512px", SPEED), simulated("linear", SPEED)


@dataclass(frozen=True, slots=True)
class Goal:
    """name: of its measurements. text: what is measured, with `{tail}` where the percentile depends on how many values
    there are. at_least or at_most: the goal; None: only told. device: the simulated one that it ran on, else empty."""

    name: str
    text: str
    at_least: float | None = None
    at_most: float | None = None
    device: str = ""
    unit: str = ""

    @property
    def shown(self) -> str:
        if self.at_least is not None:
            return f"&ge; {self.at_least:g}{self.unit}"
        return "" if self.at_most is None else f"&le; {self.at_most:g}{self.unit}"

    def met(self, value: float) -> bool:
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


GOALS = (
    Goal(
        "mixed/uniform",
        "throughput of mixed parameters / equal ones, at equal row-steps",
        at_least=0.95,
        device=H200,
    ),
    Goal(
        "online/offline", "saturated over HTTP / offline one after the other in process, embedded model", at_least=0.90
    ),
    Goal("ours/S", "throughput, ours / one request at a time, mixed, H200 512 px", at_least=1.4, device=H200),
    Goal("ours/K", "throughput, ours / whole requests of equal parameters, same", at_least=1.3, device=H200),
    Goal("ours/D", "throughput, ours / diffusers behind FastAPI, small FLUX Kontext on the CPU"),
    Goal(
        "short p95 512",
        "{tail} of edits of at most 8 steps at load 0.9, S / ours, H200 512 px",
        at_least=8,
        device=H200,
    ),
    Goal(
        "short p95 linear",
        "{tail} of the same on a device that gains nothing from batches",
        at_least=3,
        device=LINEAR,
    ),
    Goal("long 512", "{tail} of the longest edits there, ours / S, H200 512 px", at_most=1.3, device=H200),
    Goal(
        "long linear",
        "{tail} of the same on a device that gains nothing from batches",
        at_most=1.3,
        device=LINEAR,
    ),
    Goal("slo S", "share within 3 x solo at load 0.6, one request at a time", device=H200),
    Goal("slo ours", "share within 3 x solo at load 0.6, ours, by the same solo times", at_least=0.94, device=H200),
    Goal(
        "first step",
        "{tail} of the time to the first step at load 0.6, in step times",
        at_most=1.5,
        device=H200,
    ),
    Goal(
        "equal bytes",
        "edits with the same bytes alone and in a batch: simulated device, PyTorch in float32 and in bfloat16, "
        "OpenVINO",
        at_least=100,
        unit=" %",
    ),
    Goal(
        "own ms",
        "engine's own time a step of 8 rows, a denoiser that takes none, ms",
        at_most=1.0,
        device=simulated("zero", 1),
    ),
    Goal(
        "lost",
        f"of {ACCOUNTED:,} requests lost, hung, wrong or answered twice, with 20% cancelled, 5% malformed and replicas "
        "killed",
        at_most=0,
        device=simulated("h200-512px", ACCOUNTED_SPEED),
    ),
)
"""In the order of the table. S, K and D are baselines: the same engine with `batching: none` and `batching: requests`,
and `benchmarks.plain_diffusers`."""


Values = Mapping[str, Measured]
"""What was measured for each goal, by its name."""

MARK = "(!)"


def table(values: Values) -> str:
    """Markdown: each goal's value, the range of its runs, what it is made of, and whether the goal is met. What speaks
    against the runs behind a value marks its line, and is told below."""
    known = [(goal, values[goal.name]) for goal in GOALS if goal.name in values]
    lines = ["| | goal | value | range of runs | n | |", "|---|---|---|---|---|---|"]
    lines += [_line(goal, found) for goal, found in known]
    marked = [f"- {MARK} {text(goal, found)}: {mark}" for goal, found in known for mark in found.marks]
    return "\n".join([*lines, *(["", *marked] if marked else [])])


def missed(values: Values) -> list[Goal]:
    return [goal for goal in GOALS if goal.name in values and not goal.met(values[goal.name].value)]


def text(goal: Goal, found: Measured) -> str:
    return goal.text.format(tail=found.tail)


def _line(goal: Goal, found: Measured) -> str:
    verdict: Literal["", "met", "missed"] = "" if not goal.shown else "met" if goal.met(found.value) else "missed"
    what = text(goal, found) + (f" ({goal.device})" if goal.device else "")
    spread = f"{_figure(min(found.runs))} to {_figure(max(found.runs))}" if len(found.runs) > 1 else ""
    told = " ".join(part for part in (verdict, MARK if found.marks else "") if part)
    return f"| {what} | {goal.shown} | {_figure(found.value)}{goal.unit} | {spread} | {found.n} | {told} |"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3g}"
