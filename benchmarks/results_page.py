"""What `benchmarks.suite` found, and the page that tells it: table, plots and the runs that they were made of."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import chart, goals, plots, steplog
from benchmarks.errors import BenchError
from benchmarks.figures import figures
from benchmarks.goals import SPEED
from benchmarks.measured import Measured
from benchmarks.played import EMBEDDED
from benchmarks.report import save
from benchmarks.run import Run
from benchmarks.tables import load_text, shown

SHORT, LONG = ("steps-4-", "steps-8-"), ("steps-50-",)
"""Of the workload `mixed`, by how the names of its kinds begin."""

EDITOR = f"editor-{EMBEDDED}"
WAY = ("ProxyActor", "ingress", "codec", "runs", "quotas")
"""Kinds of the server's processes: the embedded model's, and those that its requests go through."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one request at a time serves when it is saturated. per_s: edits a second. window_s: over how long. edits:
    that ended therein."""

    model: str
    device: str
    per_s: float
    window_s: float
    edits: int


@dataclass
class Results:
    """folder: where they go.

    values: of each goal. rates: images a second when saturated, by model. capacities: what loads are relative to, by
    the device's table. runs: all that count. repeated: those that the harness was late in, which were made again and do
    not count. curve: those over which latency is drawn. cpu_s: seconds of a core that each kind of the server's
    processes took while the embedded model was saturated. lengths: words on how long the runs of each part are.
    """

    folder: Path
    values: dict[str, Measured] = field(default_factory=dict[str, Measured])
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    capacities: dict[str, Capacity] = field(default_factory=dict[str, Capacity])
    runs: list[Run] = field(default_factory=list[Run])
    repeated: list[Run] = field(default_factory=list[Run])
    curve: list[Run] = field(default_factory=list[Run])
    cpu_s: Mapping[str, float] = field(default_factory=dict[str, float])
    lengths: str = ""

    def capacity(self, device: str) -> Capacity:
        """device: its table. Raises BenchError."""
        if device not in self.capacities:
            raise BenchError("loads are relative to what the part `saturated` finds; measure it as well")
        return self.capacities[device]

    def step_log(self, model: str) -> Path:
        return (self.folder / "runs" / f"{model}.steps.jsonl").absolute()

    def steps(self, run: Run, model: str) -> list[steplog.Step]:
        """That the model made during the run."""
        return [
            step
            for step in steplog.read(self.step_log(model))
            if run.started_at <= step.at <= run.started_at + run.wall_s
        ]

    def write(self, took_s: float, each: int) -> None:
        """The page and its plots. each: runs of each measurement."""
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        for number, run in enumerate(self.runs):
            save(run, self.folder / "runs" / f"{number:02}-{run.label}-{run.workload}.json")
        values = {name: asdict(found) for name, found in self.values.items()}
        (self.folder / "goals.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        page = self._page(took_s, each, goals.table(self.values), self._plots())
        (self.folder / "README.md").write_text(page, encoding="utf-8")

    def _plots(self) -> dict[str, str]:
        """Files in the folder, and what each shows."""
        if not self.curve:
            return {}
        rates = {name: [rate / SPEED for rate in found] for name, found in self.rates.items()}
        chart.draw(rates, self.curve, SHORT, SPEED, self.folder / "chart.png")
        plots.latency_over_load(self.curve, self.folder / "latency.png")
        plots.throughput_over_load(self.curve, self.folder / "throughput.png")
        busiest = max((run for run in self.curve if run.label == "ours"), key=lambda run: run.load.rate or 0)
        plots.timeline(self.steps(busiest, "ours")[:400], self.folder / "timeline.png", busiest.device)
        return {
            "chart.png": "Saturated throughput, and the latency of quick edits over the load (n: of them at a load):",
            "latency.png": "Latency of all edits over the load, in the time of the simulated device's quickened clock:",
            "throughput.png": "Throughput over the load, likewise:",
            "timeline.png": "Rows in each step at the highest load, where they join and leave one by one:",
        }

    def _page(self, took_s: float, each: int, table: str, drawn: Mapping[str, str]) -> str:
        machine = self.runs[0].machine if self.runs else None
        where = f"{machine.cpu}, {machine.cores} cores; " if machine else ""
        versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items()) if machine else ""
        pictures = "\n\n".join(f"{text}\n\n![{name}]({name})" for name, text in drawn.items())
        return f"""# Results

{where}{versions}. `make bench`, {each} runs of each measurement, {took_s / 60:.0f} minutes. {self.lengths}

{table}

Simulated: the device computes nothing and takes the time that a table gives (`serve/backends/timings`), here
{SPEED:g} times as fast, or as the line says; server, engine, HTTP and harness are real. S is the same engine with
`batching: none`, K with `batching: requests`, D is `benchmarks.plain_diffusers`. What is compared under a load ran at
the same time; saturated, the step-level batching ran with mixed and with equal parameters at the same time, and then
the others did. Ratios of throughput are of one run each, and the value is their median; percentiles and shares are of
all requests of one long run, and their range that of its parts. n: what a value is made of. A percentile of fewer than
100 (p99) or 20 (p95) values is not told; the next one below is, or the maximum. Throughput is in row-steps: on a
simulated device those of the steps that its log has within the saturated window, else each request's, spread over its
denoise stage.
{_capacities([*self.capacities.values()])}
{_cpu(self.cpu_s)}

`make bench` writes each run with all its requests to `runs/`. Whether memory grows and the pace falls under full load
is on the page of the [soak](soak.md), which `make soak` writes; what each component takes on each
executor of a CPU is in [backends](backends.md), by `python -m benchmarks.backends --out benchmarks/results`; what it
takes to compile FLUX.1 Kontext at its true width in [real width](real_width.md), by `python -m benchmarks.real_width`,
likewise; what replicas by work save over a day, against Ray's own autoscaling, in [a day's traffic](day.md); what
requests saw of a cluster that was broken piece by piece in [chaos](chaos.md), by `python -m benchmarks.chaos --out
benchmarks/results`; what serving costs as a cluster grows, up to a thousand GPUs, in [scale](scale.md), by `python -m
benchmarks.scale`.

{pictures}

## The runs

{runs_table(self.runs)}

{_repeated(self.repeated)}
"""


def runs_table(runs: Iterable[Run]) -> str:
    """A line for each run: what was sent, under which load of the machine, and what speaks against it."""
    lines = [
        "| | run | device | load | offered, requests/s | answered / sent | window, s | row-steps/s, by | load average |"
        " against it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_run_line(number, run) for number, run in enumerate(runs))])


def _run_line(number: int, run: Run) -> str:
    found = figures(run)
    cells = [
        f"{number:02}",
        f"{run.label} {run.workload}, seed {run.seed}",
        run.device,
        load_text(run),
        "" if run.load.concurrency else shown(found.offered_per_s),
        f"{found.answered} / {found.sent}",
        shown(found.window.length_s) if found.window else "",
        f"{shown(found.row_steps_per_s)}, {found.row_steps_counted_by or 'all answers'}",
        f"{run.machine.load_before:.1f} to {run.machine.load_after:.1f}",
        "; ".join([*(f"NOT GOOD: {problem}" for problem in found.problems), *found.cautions]),
    ]
    return f"| {' | '.join(cells)} |"


def _repeated(runs: Sequence[Run]) -> str:
    if not runs:
        return "No run was repeated."
    said = [f"- {run.label} {run.workload}, seed {run.seed}: {'; '.join(figures(run).problems)}" for run in runs]
    return "\n".join(["Made again once, with those beside them, for these problems; they count nowhere:", "", *said])


def _capacities(found: Sequence[Capacity]) -> str:
    if not found:
        return "Loads are relative to what S reaches when it is saturated."
    told = "; ".join(
        f"{one.per_s:.3g} edits a second on {one.device} ({one.edits} edits in {one.window_s:.0f} s of back-to-back "
        f"service, `{one.model}`)"
        for one in found
    )
    return (
        f"Loads of 0.6 and 0.9 are relative to what S serves when it is saturated: {told}. The rates are those of "
        "the arrivals' Poisson process; what came of it stands below with each run."
    )


def _cpu(cpu_s: Mapping[str, float]) -> str:
    """Where a saturated small machine's time goes, of which an edit made in process has all."""
    total_s = sum(cpu_s.values())
    if not total_s:
        return ""
    way_s = sum(cpu_s.get(kind, 0.0) for kind in WAY)
    return (
        "Of the CPU time that the server's processes took while the embedded model was saturated, its editor had "
        f"{cpu_s.get(EDITOR, 0.0) / total_s:.0%}, the way of its requests ({', '.join(WAY)}) {way_s / total_s:.0%}, "
        "and all others the rest: Ray's own, and the models that stood idle."
    )
