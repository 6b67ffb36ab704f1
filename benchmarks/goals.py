"""The figures that the project holds itself to, and how a set of measurements stands against them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """name: of its measurements. text: what is measured. at_least or at_most: the goal; None: only told."""

    name: str
    text: str
    at_least: float | None = None
    at_most: float | None = None
    simulated: bool = False
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
        simulated=True,
    ),
    Goal("online/offline", "saturated over HTTP / offline in fixed batches in process, embedded model", at_least=0.90),
    Goal("ours/S", "throughput, ours / one request at a time, mixed, H200 512 px", at_least=1.4, simulated=True),
    Goal("ours/K", "throughput, ours / whole requests of equal parameters, same", at_least=1.3, simulated=True),
    Goal("ours/D", "throughput, ours / diffusers behind FastAPI, small FLUX Kontext on the CPU"),
    Goal(
        "short p95 512",
        "p95 of edits of at most 8 steps at load 0.9, S / ours, H200 512 px",
        at_least=8,
        simulated=True,
    ),
    Goal("short p95 linear", "the same on a device that gains nothing from batches", at_least=3, simulated=True),
    Goal("long p99 512", "p99 of the longest edits there, ours / S, H200 512 px", at_most=1.3, simulated=True),
    Goal("long p99 linear", "the same on a device that gains nothing from batches", at_most=1.3, simulated=True),
    Goal("slo S", "share within 3 x solo at load 0.6, one request at a time", simulated=True),
    Goal("slo ours", "share within 3 x solo at load 0.6, ours", at_least=0.94, simulated=True),
    Goal("first step", "p99 of the time to the first step at load 0.6, in step times", at_most=1.5, simulated=True),
    Goal("equal bytes", "edits with the same bytes alone and in a batch, all backends here", at_least=100, unit=" %"),
    Goal("own ms", "engine's own time a step of 8 rows, a denoiser that takes none, ms", at_most=1.0, simulated=True),
    Goal(
        "lost",
        "of 10,000 requests lost, hung, wrong or answered twice, with 20% cancelled, 5% malformed and replicas killed",
        at_most=0,
        simulated=True,
    ),
)
"""In the order of the table. S, K and D are baselines: the same engine with `batching: none` and `batching: requests`,
and `benchmarks.plain_diffusers`."""


Values = Mapping[str, Sequence[float]]
"""What was measured for each goal, a value a run."""


def table(values: Values) -> str:
    """Markdown: the median of each goal's runs, their range, and whether the median meets it."""
    lines = ["| | goal | median | range | runs | |", "|---|---|---|---|---|---|"]
    lines += [_line(goal, values[goal.name]) for goal in GOALS if values.get(goal.name)]
    return "\n".join(lines)


def missed(values: Values) -> list[Goal]:
    return [goal for goal in GOALS if values.get(goal.name) and not goal.met(statistics.median(values[goal.name]))]


def _line(goal: Goal, found: Sequence[float]) -> str:
    middle = statistics.median(found)
    verdict: Literal["", "met", "missed"] = "" if not goal.shown else "met" if goal.met(middle) else "missed"
    text = goal.text + (" (simulated)" if goal.simulated else "")
    spread = f"{_figure(min(found))} to {_figure(max(found))}" if len(found) > 1 else ""
    return f"| {text} | {goal.shown} | {_figure(middle)}{goal.unit} | {spread} | {len(found)} | {verdict} |"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3g}"
