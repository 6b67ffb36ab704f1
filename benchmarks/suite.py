"""All goals, measured in one go: `make bench`, about 20 minutes on two cores, most of them on simulated devices.

One server holds the same simulated device several times over: with step-level batching, with whole-request batching (K)
and with one request at a time (S), so that they are measured side by side. Their clocks run `SPEED` times as fast as
that of the device that they play; faster ones, or more of them saturated at once, would have the server's own work, on
a small machine, stand for the device's. Loads are relative to what S serves when it is saturated, by the steps that its
log has.
Everything goes over HTTP but what `benchmarks.engine_figures` measures in a process of its own.

A run in which the harness was late is made again once, with those beside it; what is late again is marked on the page.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks import checkpoints, goals
from benchmarks.arrivals import Arrivals, Closed, Poisson
from benchmarks.bodies import Shape
from benchmarks.drive import Bounds, drive
from benchmarks.errors import BenchError
from benchmarks.figures import figures
from benchmarks.measured import Measured, median_of, parts_of, pooled_ratio, pooled_tail, pooled_within_deadline
from benchmarks.pictures import Pictures
from benchmarks.plan import MixedPlan
from benchmarks.played import EMBEDDED, H200, LINEAR, PLAYED, SMALL, WORKLOADS, computing, simulated
from benchmarks.processes import faults, measured, plain_server, say
from benchmarks.results_page import LONG, SHORT, Capacity, Results
from benchmarks.run import Record, Run
from benchmarks.server import RunningServer, serving
from benchmarks.steplog import Step
from benchmarks.wire import Server

WORKERS = 20
SINGLE_WORKERS = WORKERS // 3
"""Of a closed loop to one request at a time, which is saturated by two."""
STAGGER_S = 0.1
"""Between the clocks of runs that go on at the same time: their requests come at the same moments, and would otherwise
wait for each other's pictures to be read."""
DRAWS = 1000
"""Between the seeds of different draws."""
MEAN_STEPS = 12
"""Of an edit of the workload `mixed`."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of sending in each part's runs; `shortest`: of those that run on the machine itself."""

    saturated: float = 40.0
    loaded: float = 225.0
    curves: float = 30.0
    shortest: float = 15.0

    def told(self) -> str:
        return (
            f"Requests were sent for {self.saturated:g} s in each saturated run, {self.loaded:g} s in those at a load "
            f"of 0.6 and 0.9, {self.curves:g} s in those at other loads, and {self.shortest:g} s in those of models "
            "that compute."
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, how requests come to it, and which. label: of the run; empty: the model. server: its URL, where it is
    not the suite's own. draw: of times and edits, the same for what is compared."""

    model: str
    arrivals: Arrivals
    workload: str = "mixed"
    label: str = ""
    server: str = ""
    draw: int = 0

    @property
    def name(self) -> str:
        return self.label or self.model


@dataclass
class Suite:
    """runs: of each measurement. small: weights of the model SMALL."""

    server: RunningServer
    results: Results
    runs: int
    seconds: Lengths
    small: Path
    pictures: Pictures = field(default_factory=Pictures)
    solo_s: dict[str, float] = field(default_factory=dict[str, float])
    """One table for all simulated models, so that the same answer is in time for each of them."""
    warm: set[str] = field(default_factory=set[str])
    """Labels of models that have run."""

    async def saturated(self) -> None:
        """Throughput of each way to batch, and what one request at a time serves on either device."""
        closed, single = Closed(WORKERS), Closed(SINGLE_WORKERS)
        stepwise = [Wanted("ours", closed), Wanted("ours-calm", closed, "uniform")]
        whole = [Wanted("requests", closed), Wanted("single", single), Wanted("single-linear", single)]
        rounds = [
            [run for wanted in (stepwise, whole) for run in await self._measured(wanted, seed, self.seconds.saturated)]
            for seed in range(self.runs)
        ]
        ours, equal, requests, one_by_one, linear = zip(*rounds, strict=True)
        for name, others in {"mixed/uniform": equal, "ours/S": one_by_one, "ours/K": requests}.items():
            pairs = list(zip(ours, others, strict=True))
            self.results.values[name] = _median(
                [(_row_steps(own) / _row_steps(other), own, other) for own, other in pairs]
            )
        for run in (*ours, *requests, *one_by_one):
            self.results.rates[run.label].append(_row_steps(run) / MEAN_STEPS)
        self.results.capacities = {H200: capacity(one_by_one), LINEAR: capacity(linear)}

    async def loaded(self) -> None:
        """Latency at loads of 0.9 and 0.6, on a device that likes batches and on one that does not."""
        wanted = [
            *(Wanted(name, self._load(0.9, H200)) for name in ("single", "ours")),
            *(Wanted(name, self._load(0.9, LINEAR), draw=1) for name in ("single-linear", "ours-linear")),
            *(Wanted(name, self._load(0.6, H200), draw=2) for name in ("single-calm", "ours-calm")),
        ]
        runs = await self._measured(wanted, 0, self.seconds.loaded)
        by_model = {run.label: parts_of(run, self.runs) for run in runs}
        values = self.results.values
        for name, end in {"512": "", "linear": "-linear"}.items():
            theirs, own = by_model[f"single{end}"], by_model[f"ours{end}"]
            values[f"short p95 {name}"] = pooled_ratio(theirs, own, _of(SHORT), "p95")
            values[f"long {name}"] = pooled_ratio(own, theirs, _of(LONG), "p99")
        calm = by_model["ours-calm"]
        values["slo S"] = pooled_within_deadline(by_model["single-calm"])
        values["slo ours"] = pooled_within_deadline(calm)
        values["first step"] = pooled_tail([first_steps(run, run.steps) for run in calm], calm, "p99")
        self._draw([run for run in runs if not run.label.endswith("-linear")])

    async def curves(self) -> None:
        """Latency at further loads, for the plots: up to where each way to batch is saturated."""
        loads = {"single-calm": 0.3, "requests-calm": 1.05, "requests": 1.4, "ours-calm": 1.5, "ours": 2.2}
        wanted = [Wanted(name, self._load(load, H200), draw=place) for place, (name, load) in enumerate(loads.items())]
        self._draw(await self._measured(wanted, 0, self.seconds.curves))

    def _draw(self, runs: Sequence[Run]) -> None:
        """A way to batch is drawn as one, whichever of its devices was asked."""
        self.results.curve += [replace(run, label=run.label.removesuffix("-calm")) for run in runs]

    async def embedded(self) -> None:
        """On the CPU itself: the server's machine is the device, so one measurement at a time."""
        offline = measured("offline-per-s", self.runs, "--seconds", str(self.seconds.shortest))
        before = self.server.cpu_s_by_kind()
        wanted = [Wanted(EMBEDDED, Closed(3), EMBEDDED)]
        online = [run for seed in range(self.runs) for run in await self._measured(wanted, seed, self.seconds.shortest)]
        self.results.cpu_s = {kind: s - before.get(kind, 0.0) for kind, s in self.server.cpu_s_by_kind().items()}
        found = [(_rate(run) / offline[seed], run) for seed, run in enumerate(online)]
        self.results.values["online/offline"] = _median(found)

    async def plain(self) -> None:
        """Against diffusers behind FastAPI, on the same weights and threads."""
        found: list[tuple[float, Run, Run]] = []
        with plain_server(self.small) as url:
            for seed in range(self.runs):
                own, theirs = [
                    run
                    for one in (Wanted(SMALL, Closed(8), SMALL), Wanted("", Closed(8), SMALL, "D", url))
                    for run in await self._measured([one], seed, self.seconds.shortest)
                ]
                found.append((_rate(own) / _rate(theirs), own, theirs))
        self.results.values["ours/D"] = _median(found)

    def _load(self, load: float, device: str) -> Poisson:
        """So many times what one request at a time serves. Raises BenchError: that was not measured."""
        return Poisson(load * self.results.capacity(device).per_s)

    async def _measured(self, wanted: Sequence[Wanted], seed: int, seconds: float) -> list[Run]:
        """At the same time. The runs that count, told and with their steps: of the second attempt where the harness
        was late."""
        kept, late = await repeated_once(lambda: self._together(wanted, seed, seconds))
        self.results.repeated += late
        runs = [self._with_steps(run) for run in kept]
        for run in runs:
            found = figures(run)
            say(f"{run.label} {run.workload}: {found.images_per_s or 0:.2f} images/s, {found.answered}/{found.sent}")
            for problem in [*found.problems, *found.cautions]:
                say(f"  {problem}")
        self.results.runs += runs
        return runs

    def _with_steps(self, run: Run) -> Run:
        return replace(run, steps=self.results.steps(run, run.label)) if run.label in PLAYED else run

    async def _together(self, wanted: Sequence[Wanted], seed: int, seconds: float) -> list[Run]:
        """Drives whose clocks start together."""
        together = asyncio.Barrier(len(wanted))
        drives = [
            drive(
                Server(one.server or self.server.url, Shape(model=one.model)),
                MixedPlan(WORKLOADS[one.workload], seed + DRAWS * one.draw, self.pictures),
                one.arrivals,
                Bounds(duration_s=seconds, grace_s=60, warmup=0 if one.name in self.warm else 4, solo_rounds=1),
                one.name,
                together,
                self.solo_s if one.model in PLAYED else {},
                STAGGER_S * place,
            )
            for place, one in enumerate(wanted)
        ]
        runs = list(await asyncio.gather(*drives))
        self.warm |= {one.name for one in wanted}
        for run in (run for run in runs if run.label in PLAYED):
            self.solo_s = {**run.solo_s, **self.solo_s}
        return runs


Measurement = Callable[[Suite], Awaitable[None]]

ON_DEVICES: Mapping[str, Measurement] = {"saturated": Suite.saturated, "loaded": Suite.loaded, "curves": Suite.curves}
"""Of which the last two need the first, which their loads are relative to."""
ON_THE_CPU: Mapping[str, Measurement] = {"embedded": Suite.embedded, "plain": Suite.plain}
PARTS = ("engine", *ON_DEVICES, *ON_THE_CPU, "accounting")


async def repeated_once(attempt: Callable[[], Awaitable[list[Run]]]) -> tuple[list[Run], list[Run]]:
    """The runs of an attempt, or of a second where one of them has a problem, and those of the first that had one."""
    runs = await attempt()
    late = [run for run in runs if figures(run).problems]
    return (await attempt() if late else runs), late


def capacity(runs: Sequence[Run]) -> Capacity:
    """Of saturated runs with their step logs, in edits of the mean number of steps. Raises BenchError."""
    windows = [found.window for run in runs if (found := figures(run)).row_steps_counted_by == "step log"]
    lengths_s = [window.length_s for window in windows if window is not None]
    if len(lengths_s) < len(runs):
        raise BenchError(f"a run of {runs[0].label} was too short for a capacity")
    edits = sum(_row_steps(run) * length_s for run, length_s in zip(runs, lengths_s, strict=True)) / MEAN_STEPS
    ended = sum(window.ended for window in windows if window is not None)
    return Capacity(runs[0].label, runs[0].device, edits / sum(lengths_s), sum(lengths_s), ended)


def first_steps(run: Run, steps: Sequence[Step]) -> list[float]:
    """Of each answered request the time from the engine's taking it to its first step, in mean steps of that time."""
    step_s = float(np.mean([step.seconds for step in steps]))
    answered = [one for one in run.records if one.outcome == "answered"]
    return [(one.stages_ms["queue"] + one.stages_ms["encode"]) / 1e3 / step_s for one in answered]


def main() -> None:
    arguments = _arguments()
    started_s = time.monotonic()
    parts = arguments.only or PARTS
    shutil.rmtree(arguments.out / "runs", ignore_errors=True)
    (arguments.out / "runs").mkdir(parents=True)  # the engines write their step logs there
    lengths = Lengths(**{name: arguments.shrink * seconds for name, seconds in asdict(Lengths()).items()})
    results = Results(arguments.out, lengths=lengths.told())
    if "engine" in parts:
        results.values["equal bytes"] = median_of(measured("equal-bytes", 1))
        results.values["own ms"] = median_of(measured("own-ms", arguments.runs))
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_served(results, arguments.runs, lengths, Path(name), parts))
        if "accounting" in parts:
            say("-- accounting")
            results.values["lost"] = median_of([faults(Path(name) / "accounting.json")])
    results.write(time.monotonic() - started_s, arguments.runs)
    print(goals.table(results.values))
    for goal in goals.missed(results.values):
        say(f"missed: {goals.text(goal, results.values[goal.name])}")


async def _served(results: Results, runs: int, lengths: Lengths, folder: Path, parts: Sequence[str]) -> None:
    """Models that compute have a server of their own: on a small machine, idle neighbours would take some of it."""
    devices = simulated(checkpoints.flux_kontext_configurations(folder / "devices"), results.step_log)
    small = checkpoints.flux_kontext(folder / "small")
    for wanted, models in ((ON_DEVICES, devices), (ON_THE_CPU, computing(small))):
        measured_here = [part for part in wanted if part in parts]
        if measured_here:
            with serving(models=models) as server:
                suite = Suite(server, results, runs, lengths, small)
                for part in measured_here:
                    say(f"-- {part}")
                    await wanted[part](suite)


def _rate(run: Run) -> float:
    return _known(figures(run).images_per_s, run)


def _row_steps(run: Run) -> float:
    return _known(figures(run).row_steps_per_s, run)


def _known(value: float | None, run: Run) -> float:
    if value is None:
        raise BenchError(f"the run of {run.label} was too short for a figure")
    return value


def _median(found: Sequence[tuple[float, *tuple[Run, ...]]]) -> Measured:
    """Of values, each with the runs that it was made of."""
    return median_of([value for value, *_ in found], [run for _, *runs in found for run in runs])


def _of(kinds: tuple[str, ...]) -> Callable[[Record], bool]:
    return lambda record: record.kind.startswith(kinds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--shrink", type=float, default=1.0, help="multiplies the lengths of the runs (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=())
    return parser.parse_args()


if __name__ == "__main__":
    main()
