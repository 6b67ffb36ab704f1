"""All goals, measured in one go: `make bench`, 20 to 30 minutes on two cores, most of them on a simulated device.

One server holds the same simulated device several times over: with step-level batching, with whole-request batching (K)
and with one request at a time (S), so that they are measured side by side. Its clock runs faster than that of the
device that it plays: `SPEED` times, and where waiting times are compared `CALM_SPEED` times, for the server's own work
on a small machine is not to stand for the device's. Loads are relative to what S reaches when it is saturated.
Everything goes over HTTP but what `benchmarks.engine_figures` measures in a process of its own.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import checkpoints, goals, workload
from benchmarks.arrivals import Arrivals, Closed, Poisson
from benchmarks.bodies import Shape
from benchmarks.drive import Bounds, drive
from benchmarks.errors import BenchError
from benchmarks.figures import figures
from benchmarks.plan import MixedPlan
from benchmarks.processes import faults, measured, plain_server, say
from benchmarks.results_page import LONG, SHORT, Results
from benchmarks.run import Run
from benchmarks.server import RunningServer, serving
from benchmarks.steplog import Step
from benchmarks.wire import Server
from serve.settings import embedded_model

SPEED = 4
CALM_SPEED = 2
WORKERS = 24
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


@dataclass
class Suite:
    """runs: of each measurement, seconds: of the shortest."""

    results: Results
    runs: int
    seconds: float
    solo_s: dict[str, Mapping[str, float]] = field(default_factory=lambda: defaultdict(dict))

    async def saturated(self, server: RunningServer) -> None:
        """Throughput of each way to batch."""
        for seed in range(self.runs):
            mixed = await self._run(server, "ours", "mixed", Closed(WORKERS), seed)
            uniform = await self._run(server, "ours", "uniform", Closed(WORKERS), seed)
            single, whole = await self._side_by_side(
                [("single", Closed(WORKERS // 3)), ("requests", Closed(WORKERS))], server, "mixed", seed
            )
            rates = {run.label: _row_steps(run) for run in (mixed, single, whole)}
            self.results.values["mixed/uniform"].append(rates["ours"] / _row_steps(uniform))
            self.results.values["ours/S"].append(rates["ours"] / rates["single"])
            self.results.values["ours/K"].append(rates["ours"] / rates["requests"])
            for name, rate in rates.items():
                self.results.rates[name].append(rate / MEAN_STEPS)

    async def loaded(self, server: RunningServer) -> None:
        """Latency at loads of 0.9 and 0.6, of S and ours, on a device that likes batches and on one that does not."""
        loads = {name: 0.6 if name.endswith("calm") else 0.9 for name in CALM}
        capacity = self.results.capacity * CALM_SPEED / SPEED
        for seed in range(self.runs):
            wanted = [(name, Poisson(load * capacity)) for name, load in loads.items()]
            found = await self._side_by_side(wanted, server, "mixed", seed, seconds=7 * self.seconds)
            single, ours, single_linear, ours_linear, single_calm, ours_calm = found
            for name, (theirs, own) in {"512": (single, ours), "linear": (single_linear, ours_linear)}.items():
                self.results.values[f"short p95 {name}"].append(_p(theirs, 95, SHORT) / _p(own, 95, SHORT))
                self.results.values[f"long p99 {name}"].append(_p(own, 99, LONG) / _p(theirs, 99, LONG))
            self.results.values["slo S"].append(_in_time(single_calm))
            self.results.values["slo ours"].append(_in_time(ours_calm))
            self.results.values["first step"].append(_first_step(ours_calm, self.results.steps(ours_calm, "ours-calm")))

    async def curves(self, server: RunningServer) -> None:
        """Latency over load, for the plot: each way to batch up to where it is saturated."""
        rounds = ((0.3, 0.4, 0.6), (0.6, 0.8, 1.3), (0.9, 1.2, 2.1))
        for number, loads in enumerate(rounds):
            wanted = [
                (name, Poisson(load * self.results.capacity))
                for name, load in zip(("single", "requests", "ours"), loads, strict=True)
            ]
            self.results.curve += await self._side_by_side(wanted, server, "mixed", number, seconds=2 * self.seconds)

    async def embedded(self, server: RunningServer) -> None:
        """On the CPU itself: the server's machine is the device, so one measurement at a time."""
        offline = measured("offline-per-s", self.runs, "--seconds", str(self.seconds))
        for seed in range(self.runs):
            online = await self._run(server, "retouch-tiny", workload.parse(EMBEDDED, "embedded"), Closed(3), seed)
            self.results.values["online/offline"].append(_rate(online) / offline[seed])

    async def plain(self, server: RunningServer, small: Path) -> None:
        """Against diffusers behind FastAPI, on the same weights and threads."""
        with plain_server(small) as url:
            for seed in range(self.runs):
                wanted = workload.parse(SMALL, "small")
                own = await self._run(server, "kontext-small", wanted, Closed(8), seed)
                theirs = await self._drive(Server(url), "D", wanted, Closed(8), seed, self.seconds)
                self.results.values["ours/D"].append(_rate(own) / _rate(theirs))

    async def _run(
        self,
        server: RunningServer,
        model: str,
        wanted: workload.Workload | str,
        arrivals: Arrivals,
        seed: int,
        seconds: float | None = None,
    ) -> Run:
        return await self._drive(_at(server, model), model, wanted, arrivals, seed, seconds or self.seconds)

    async def _side_by_side(
        self,
        wanted: Sequence[tuple[str, Arrivals]],
        server: RunningServer,
        name: str,
        seed: int,
        seconds: float | None = None,
    ) -> list[Run]:
        """The same requests at the same time to models of the same server, each a device of its own."""
        together = asyncio.Barrier(len(wanted))
        drives = [
            self._drive(_at(server, model), model, name, arrivals, seed, seconds or self.seconds, together)
            for model, arrivals in wanted
        ]
        return list(await asyncio.gather(*drives))

    async def _drive(
        self,
        server: Server,
        label: str,
        wanted: workload.Workload | str,
        arrivals: Arrivals,
        seed: int,
        seconds: float,
        together: asyncio.Barrier | None = None,
    ) -> Run:
        plan = MixedPlan(workload.load(wanted) if isinstance(wanted, str) else wanted, seed=seed)
        bounds = Bounds(duration_s=seconds, grace_s=60, warmup=4, solo_rounds=1)
        run = await drive(server, plan, arrivals, bounds, label, together, solo_s=self.solo_s[label])
        self.solo_s[label] = {**self.solo_s[label], **run.solo_s}
        found = figures(run)
        say(f"{label} {plan.name}: {found.images_per_s or 0:.2f} images/s, {found.answered}/{found.sent} answered")
        for problem in found.problems:
            say(f"  {problem}")
        self.results.runs.append(run)
        return run


def main() -> None:
    arguments = _arguments()
    started_s = time.monotonic()
    parts = arguments.only or PARTS
    shutil.rmtree(arguments.out / "runs", ignore_errors=True)
    results = Results(arguments.out, SPEED, CALM_SPEED)
    if "engine" in parts:
        results.values["equal bytes"] += measured("equal-bytes", 1)
        results.values["own ms"] += measured("own-ms", arguments.runs)
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_served(Suite(results, arguments.runs, arguments.seconds), Path(name), parts))
        if "accounting" in parts:
            say("-- accounting")
            results.values["lost"].append(faults(Path(name) / "accounting.json"))
    results.write(time.monotonic() - started_s, arguments.runs)
    print(goals.table(results.values))
    for goal in goals.missed(results.values):
        say(f"missed: {goal.text}")


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
    def simulated(
        name: str, batching: str = "steps", timings: str = "h200-512px", speed: float = SPEED, **more: Any
    ) -> dict[str, Any]:
        return {
            "id": name,
            "family": "flux_kontext",
            "weights": str(real),
            "backend": "simulated",
            "simulated": {"timings": timings, "speed": speed},
            "batching": batching,
            "max_batch": 8,
            "max_queued_rows": 1024,
            "num_cpus": 0.1,
            "threads": 1,
            **more,
        }

    tiny = {**embedded_model().model_dump(mode="json", exclude_unset=True), "num_cpus": 0.1}
    calm = [
        (name, "none" if name.startswith("single") else "steps", "linear" if name.endswith("linear") else "h200-512px")
        for name in CALM
    ]
    torch = {"family": "flux_kontext", "weights": str(small), "max_batch": 8, "threads": 2, "num_cpus": 0.1}
    return [
        simulated("ours", step_log=steps("ours")),
        simulated("single", "none"),
        simulated("requests", "requests"),
        *(simulated(name, batching, timings, CALM_SPEED, step_log=steps(name)) for name, batching, timings in calm),
        tiny,
        {"id": "kontext-small", **torch},
    ]


def _at(server: RunningServer, model: str) -> Server:
    return Server(server.url, Shape(model=model))


def _rate(run: Run) -> float:
    return _known(figures(run).images_per_s, run)


def _row_steps(run: Run) -> float:
    return _known(figures(run).row_steps_per_s, run)


def _in_time(run: Run) -> float:
    return _known(figures(run).within_deadline, run)


def _known(value: float | None, run: Run) -> float:
    if value is None:
        raise BenchError(f"the run of {run.label} was too short for a figure")
    return value


def _p(run: Run, percentile: float, kinds: tuple[str, ...]) -> float:
    """Of the latency of answered requests of these kinds."""
    taken = [one.latency_s for one in run.records if one.outcome == "answered" and one.kind.startswith(kinds)]
    return float(np.percentile(taken, percentile))


def _first_step(run: Run, steps: Sequence[Step]) -> float:
    """p99 of the time from the engine's taking a request to its first step, over the mean step of that time."""
    waits = [one.stages_ms["queue"] + one.stages_ms["encode"] for one in run.records if one.outcome == "answered"]
    return float(np.percentile(waits, 99)) / 1e3 / float(np.mean([step.seconds for step in steps]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--seconds", type=float, default=11.0, help="of the shortest one (default: 11)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=())
    return parser.parse_args()


if __name__ == "__main__":
    main()
