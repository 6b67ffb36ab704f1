"""What `benchmarks.suite` found, and the page that tells it: table, plots and the runs that they were made of."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import chart, goals, plots, steplog
from benchmarks.report import save
from benchmarks.run import Run

SHORT, LONG = ("steps-4-", "steps-8-"), ("steps-50-",)
"""Of the workload `mixed`, by how the names of its kinds begin."""


@dataclass
class Results:
    """folder: where they go. speed: how many times as fast as in the tables the simulated device runs, and calm_speed
    where waiting times are compared.

    values: of each goal, a value a run. rates: images a second when saturated, by model. runs: all of them. curve:
    those over which latency is drawn.
    """

    folder: Path
    speed: float
    calm_speed: float
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    runs: list[Run] = field(default_factory=list[Run])
    curve: list[Run] = field(default_factory=list[Run])

    @property
    def capacity(self) -> float:
        """What one request at a time reaches, in images a second."""
        return float(np.median(self.rates["single"]))

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
        values = {name: found for name, found in self.values.items() if found}
        (self.folder / "goals.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        page = self._page(took_s, each, goals.table(values), self._plots())
        (self.folder / "README.md").write_text(page, encoding="utf-8")

    def _plots(self) -> dict[str, str]:
        """Files in the folder, and what each shows."""
        if not self.curve:
            return {}
        rates = {name: [rate / self.speed for rate in found] for name, found in self.rates.items()}
        chart.draw(rates, self.curve, SHORT, self.speed, self.folder / "chart.png")
        plots.latency_over_load(self.curve, self.folder / "latency.png")
        plots.throughput_over_load(self.curve, self.folder / "throughput.png")
        busiest = max((run for run in self.curve if run.label == "ours"), key=lambda run: run.load.rate or 0)
        plots.timeline(self.steps(busiest, "ours")[:400], self.folder / "timeline.png", simulated=True)
        return {
            "chart.png": "Saturated throughput, and the latency of quick edits over the load:",
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

{where}{versions}. `make bench`, {each} runs of each measurement, {took_s / 60:.0f} minutes.

{table}

Simulated: the device computes nothing and takes the time that a table gives (`serve/backends/timings`), here
{self.speed:g} times as fast, and {self.calm_speed:g} times where waiting times are compared; server, engine, HTTP and
harness are real. S is the same engine with `batching: none`, K with `batching: requests`, D is
`benchmarks.plain_diffusers`. Ratios are of one run each; throughput is in row-steps, and loads are relative to what S
reaches when it is saturated. `make bench` writes each run with all its requests to `runs/`. Memory over a quarter of an
hour under full load is on the page of the [soak](soak.md), which `make soak` writes; what each component takes on each
executor of a CPU is in [backends](backends.md), by `python -m benchmarks.backends --out benchmarks/results`; what it
takes to compile FLUX.1 Kontext at its true width in [real width](real_width.md), by `python -m benchmarks.real_width`,
likewise; what replicas by work save over a day, against Ray's own autoscaling, in [a day's traffic](day.md); what
requests saw of a cluster that was broken piece by piece in [chaos](chaos.md), by `python -m benchmarks.chaos --out
benchmarks/results`; what serving costs as a cluster grows, up to a thousand GPUs, in [scale](scale.md), by `python -m
benchmarks.scale`.

{pictures}
"""
