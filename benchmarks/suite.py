"""All goals, measured in one go: `make bench`, about 35 minutes on two cores, most of them on a simulated device.

One server holds the same simulated device several times over: with step-level batching, with whole-request batching (K)
and with one request at a time (S), so that they are measured side by side. Its clock runs faster than that of the
device that it plays: `SPEED` times, and where waiting times are compared `CALM_SPEED` times, for the server's own work
on a small machine is not to stand for the device's. Loads are relative to what S serves when it is saturated, on a
device of the same clock, by the steps that its log has. Everything goes over HTTP but what `benchmarks.engine_figures`
measures in a process of its own.

A run in which the harness was late is made again once, with those beside it; what is late again is marked on the page.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import checkpoints, goals, workload
from benchmarks.arrivals import Arrivals, Closed, Poisson
from benchmarks.bodies import Shape
from benchmarks.drive import Bounds, drive
from benchmarks.errors import BenchError
from benchmarks.figures import figures
from benchmarks.goals import CALM_SPEED, SPEED
from benchmarks.measured import Measured, median_of, pooled_ratio, pooled_tail, pooled_within_deadline
from benchmarks.plan import MixedPlan
from benchmarks.processes import faults, measured, plain_server, say
from benchmarks.results_page import LONG, SHORT, Capacity, Results
from benchmarks.run import Record, Run
from benchmarks.server import RunningServer, serving
from benchmarks.steplog import Step
from benchmarks.wire import Server
from serve.settings import embedded_model

WORKERS = 24
SINGLE_WORKERS = WORKERS // 3
"""Of a closed loop to one request at a time, which is saturated by two."""
CALM = ("single-512px", "ours-512px", "single-linear", "ours-linear", "single-calm", "ours-calm")
MEAN_STEPS = 12
"""Of an edit of the workload `mixed`."""
PARTS = ("engine", "saturated", "loaded", "curves", "embedded", "plain", "accounting")
EMBEDDED = """
name: embedded
description: 8 steps at 512 px without guidance
prompts: [make it black and white, tint it blue, make it look like night]
kinds: [{name: plain, size: 512x512, steps: 8, strength: 1.0, guidance: 1.0}]
"""
SMALL = """
name: small
description: 8 steps at 256 px
prompts: [make it black and white, tint it blue, make it look like night]
kinds: [{name: plain, size: 256x256, steps: 8, strength: 1.0, guidance: 2.5}]
"""


@dataclass(frozen=True, slots=True)
class Played:
    """A simulated device, and how the model on it batches."""

    batching: str
    timings: str = "h200-512px"
    speed: float = SPEED


PLAYED: dict[str, Played] = {
    "ours": Played("steps"),
    "single": Played("none"),
    "requests": Played("requests"),
    **{
        name: Played(
            "none" if name.startswith("single") else "steps",
            "linear" if name.endswith("linear") else "h200-512px",
            CALM_SPEED,
        )
        for name in CALM
    },
}
"""The models on simulated devices, each of which writes a step log."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of sending in each part's runs; `shortest`: of those that run on the machine itself."""

    saturated: float = 60.0
    capacity: float = 60.0
    loaded: float = 90.0
    curves: float = 60.0
    shortest: float = 20.0

    def told(self) -> str:
        return (
            f"Requests were sent for {self.saturated:g} s in each saturated run, {self.capacity:g} s in those of the "
            f"capacity, {self.loaded:g} s in those at a load of 0.6 and 0.9, {self.curves:g} s for each point of the "
            f"curves, and {self.shortest:g} s in those of models that compute."
        )


Wanted = tuple[str, Arrivals]
"""A model and how requests come to it."""


@dataclass
class Suite:
    """runs: of each measurement."""

    results: Results
    runs: int
    seconds: Lengths
    solo_s: dict[float, Mapping[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """By the speed of the clock: one table for all models, so that the same answer is in time for each of them."""

    async def saturated(self, server: RunningServer) -> None:
        """Throughput of each way to batch."""
        found: dict[str, list[tuple[float, Run, Run]]] = defaultdict(list)
        closed = Closed(WORKERS)
        for seed in range(self.runs):
            (mixed,) = await self._measured(server, [("ours", closed)], "mixed", seed, self.seconds.saturated)
            (uniform,) = await self._measured(server, [("ours", closed)], "uniform", seed, self.seconds.saturated)
            wanted: list[Wanted] = [("single", Closed(SINGLE_WORKERS)), ("requests", closed)]
            single, whole = await self._measured(server, wanted, "mixed", seed, self.seconds.saturated)
            for name, other in {"mixed/uniform": uniform, "ours/S": single, "ours/K": whole}.items():
                found[name].append((_row_steps(mixed) / _row_steps(other), mixed, other))
            for run in (mixed, single, whole):
                self.results.rates[run.label].append(_row_steps(run) / MEAN_STEPS)
        for name, triples in found.items():
            self.results.values[name] = _median(triples)

    async def loaded(self, server: RunningServer) -> None:
        """Latency at loads of 0.9 and 0.6, of S and ours, on a device that likes batches and on one that does not."""
        h200, linear = await self._capacities(server)
        loads = {"512px": 0.9 * h200, "linear": 0.9 * linear, "calm": 0.6 * h200}
        wanted: list[Wanted] = [(name, Poisson(loads[name.partition("-")[2]])) for name in CALM]
        by_model: dict[str, list[Run]] = defaultdict(list)
        for seed in range(self.runs):
            for run in await self._measured(server, wanted, "mixed", seed, self.seconds.loaded):
                by_model[run.label].append(run)
        values = self.results.values
        for name, device in {"512": "512px", "linear": "linear"}.items():
            theirs, own = by_model[f"single-{device}"], by_model[f"ours-{device}"]
            values[f"short p95 {name}"] = pooled_ratio(theirs, own, _of(SHORT), "p95")
            values[f"long {name}"] = pooled_ratio(own, theirs, _of(LONG), "p99")
        values["slo S"] = pooled_within_deadline(by_model["single-calm"])
        values["slo ours"] = pooled_within_deadline(by_model["ours-calm"])
        calm = by_model["ours-calm"]
        values["first step"] = pooled_tail([first_steps(run, run.steps) for run in calm], calm, "p99")

    async def curves(self, server: RunningServer) -> None:
        """Latency over load, for the plot: each way to batch up to where it is saturated."""
        rounds = ((0.3, 0.4, 0.6), (0.6, 0.8, 1.3), (0.9, 1.2, 2.1))
        for number, loads in enumerate(rounds):
            wanted: list[Wanted] = [
                (name, Poisson(load * self.results.capacity))
                for name, load in zip(("single", "requests", "ours"), loads, strict=True)
            ]
            self.results.curve += await self._measured(server, wanted, "mixed", number, self.seconds.curves)

    async def embedded(self, server: RunningServer) -> None:
        """On the CPU itself: the server's machine is the device, so one measurement at a time."""
        seconds = self.seconds.shortest
        offline = measured("offline-per-s", self.runs, "--seconds", str(seconds))
        parsed = workload.parse(EMBEDDED, "embedded")
        found: list[tuple[float, Run]] = []
        for seed in range(self.runs):
            (online,) = await self._measured(server, [("retouch-tiny", Closed(3))], parsed, seed, seconds)
            found.append((_rate(online) / offline[seed], online))
        self.results.values["online/offline"] = _median(found)

    async def plain(self, server: RunningServer, small: Path) -> None:
        """Against diffusers behind FastAPI, on the same weights and threads."""
        parsed, seconds = workload.parse(SMALL, "small"), self.seconds.shortest
        found: list[tuple[float, Run, Run]] = []
        with plain_server(small) as url:
            for seed in range(self.runs):
                (own,) = await self._measured(server, [("kontext-small", Closed(8))], parsed, seed, seconds)
                (theirs,) = await self._kept(
                    lambda seed=seed: self._together([(Server(url), "D", Closed(8))], parsed, seed, seconds)
                )
                found.append((_rate(own) / _rate(theirs), own, theirs))
        self.results.values["ours/D"] = _median(found)

    async def _capacities(self, server: RunningServer) -> tuple[float, float]:
        """Edits a second that S serves back to back, on the H200 and on the device that gains nothing from batches."""
        wanted: list[Wanted] = [(name, Closed(SINGLE_WORKERS)) for name in ("single-512px", "single-linear")]
        h200, linear = await self._measured(server, wanted, "mixed", self.runs, self.seconds.capacity)
        found = capacity(h200), capacity(linear)
        self.results.capacities += found
        return found[0].per_s, found[1].per_s

    async def _measured(
        self,
        server: RunningServer,
        wanted: Sequence[Wanted],
        plan: workload.Workload | str,
        seed: int,
        seconds: float,
    ) -> list[Run]:
        """The same requests at the same time to models of the same server, each a device of its own."""
        targets = [(_at(server, model), model, arrivals) for model, arrivals in wanted]
        return await self._kept(lambda: self._together(targets, plan, seed, seconds))

    async def _kept(self, attempt: Callable[[], Awaitable[list[Run]]]) -> list[Run]:
        """The runs that count, told and with their steps: of the second attempt where the harness was late."""
        kept, late = await repeated_once(attempt)
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

    async def _together(
        self,
        targets: Sequence[tuple[Server, str, Arrivals]],
        wanted: workload.Workload | str,
        seed: int,
        seconds: float,
    ) -> list[Run]:
        """Drives whose clocks start together. targets: servers, what their runs are labelled with, and the arrivals."""
        together = asyncio.Barrier(len(targets))
        clocks = [PLAYED[label].speed if label in PLAYED else 1.0 for _, label, _ in targets]
        plan = workload.load(wanted) if isinstance(wanted, str) else wanted
        bounds = Bounds(duration_s=seconds, grace_s=60, warmup=4, solo_rounds=1)
        drives = [
            drive(server, MixedPlan(plan, seed=seed), arrivals, bounds, label, together, solo_s=self.solo_s[clock])
            for (server, label, arrivals), clock in zip(targets, clocks, strict=True)
        ]
        runs = list(await asyncio.gather(*drives))
        for run, clock in zip(runs, clocks, strict=True):
            self.solo_s[clock] = {**run.solo_s, **self.solo_s[clock]}
        return runs


async def repeated_once(attempt: Callable[[], Awaitable[list[Run]]]) -> tuple[list[Run], list[Run]]:
    """The runs of an attempt, or of a second where one of them has a problem, and those of the first that had one."""
    runs = await attempt()
    late = [run for run in runs if figures(run).problems]
    return (await attempt() if late else runs), late


def capacity(run: Run) -> Capacity:
    """Of a saturated run with its step log, in edits of the mean number of steps. Raises BenchError."""
    found = figures(run)
    if found.window is None or found.row_steps_counted_by != "step log":
        raise BenchError(f"the run of {run.label} was too short for a capacity")
    per_s = _row_steps(run) / MEAN_STEPS
    return Capacity(run.label, run.device, per_s, found.window.length_s, found.window.ended)


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
        asyncio.run(_served(Suite(results, arguments.runs, lengths), Path(name), parts))
        if "accounting" in parts:
            say("-- accounting")
            results.values["lost"] = median_of([faults(Path(name) / "accounting.json")])
    results.write(time.monotonic() - started_s, arguments.runs)
    print(goals.table(results.values))
    for goal in goals.missed(results.values):
        say(f"missed: {goals.text(goal, results.values[goal.name])}")


async def _served(suite: Suite, folder: Path, parts: Sequence[str]) -> None:
    small = checkpoints.flux_kontext(folder / "small")
    models = _models(checkpoints.flux_kontext_configurations(folder / "real"), small, suite.results.step_log)
    with serving(models=models) as server:
        measure: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "saturated": lambda: suite.saturated(server),
            "loaded": lambda: suite.loaded(server),
            "curves": lambda: suite.curves(server),
            "embedded": lambda: suite.embedded(server),
            "plain": lambda: suite.plain(server, small),
        }
        for part in (part for part in parts if part in measure):
            say(f"-- {part}")
            await measure[part]()


def _models(real: Path, small: Path, steps: Callable[[str], Path]) -> list[dict[str, Any]]:
    def simulated(name: str, played: Played) -> dict[str, Any]:
        return {
            "id": name,
            "family": "flux_kontext",
            "weights": str(real),
            "backend": "simulated",
            "simulated": {"timings": played.timings, "speed": played.speed},
            "batching": played.batching,
            "step_log": steps(name),
            "max_batch": 8,
            "max_queued_rows": 1024,
            "num_cpus": 0.1,
            "threads": 1,
        }

    tiny = {**embedded_model().model_dump(mode="json", exclude_unset=True), "num_cpus": 0.1}
    torch = {"family": "flux_kontext", "weights": str(small), "max_batch": 8, "threads": 2, "num_cpus": 0.1}
    return [
        *(simulated(name, played) for name, played in PLAYED.items()),
        tiny,
        {"id": "kontext-small", **torch},
    ]


def _at(server: RunningServer, model: str) -> Server:
    return Server(server.url, Shape(model=model))


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
