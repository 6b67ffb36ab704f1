"""Whether the server's memory grows and its pace falls: many minutes under full load, looked at every few seconds.

`python -m benchmarks.soak` serves the embedded model and a simulated FLUX.1 Kontext side by side, and sends both a mix
of edits in a closed loop. The memory of every process is sampled; the slope of a straight line through the proportional
set sizes, after a warm-up of five minutes, in which caches fill and heaps find their size, is told for each kind of
process and for all together, with its standard error. It is of the means of each whole minute, since what is sampled
every few seconds depends on the samples before. Memory is flat where its slope is below 1 MiB a minute even with two
standard errors added to it; it grows where it is not, and is above 0 by more than two; else the soak was too short, or
too noisy, to decide. Likewise the pace: it holds where the last third of the time answered less than the first by under
a tenth even with two standard errors added to that, those of counts that vary as Poisson's do; it falls where it is
less by more than two.

Ray's object store is told apart, and not in what the processes hold: it is a file of a fixed size in shared memory, of
which the system has given out what was ever written to, so it fills up for a while and never gets larger than its size.
Exit code 1 where a request was not answered, all processes together are not flat, the object store is larger than it
may be, or a model's pace falls.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from benchmarks.arrivals import Closed
from benchmarks.bodies import Shape
from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.drive import Bounds, drive
from benchmarks.machine import load_average, machine
from benchmarks.plan import MixedPlan
from benchmarks.plots import COLOURS, DPI, SIZE_INCHES, STYLE
from benchmarks.run import Record, Run
from benchmarks.run import simulated as played
from benchmarks.server import Memory, RunningServer, serving
from benchmarks.wire import Server
from benchmarks.workload import Workload
from serve.settings import LimitSettings, embedded_model

Numbers = npt.NDArray[np.float64]

SAMPLE_S = 5.0
WARMUP_S = 300.0
LEAST_MINUTES = WARMUP_S / 60 + 4
"""Of a soak: the slope's error takes three whole minutes, and the last is not whole."""
FLAT_MIB_PER_MIN = 1.0
HELD_SHARE = 0.1
"""By less than this the pace may fall."""
STANDARD_ERRORS = 2.0
GROWS, FALLS, UNDECIDED = "grows", "falls", "not decided"
PARTS = 3
ALL = "all processes"
STORE = "object store"
STORE_MIB = 2 * LimitSettings().bodies_bytes / 2**20
SHOWN_KINDS = 6
EMBEDDED, SIMULATED = embedded_model().id, "simulated"
TIMINGS = "h200"
WORKERS = {EMBEDDED: 2, SIMULATED: 8}
_KINDS: dict[str, list[dict[str, Any]]] = {
    EMBEDDED: [
        {"name": "small", "size": "256x256", "steps": 2, "weight": 3},
        {"name": "masked", "size": "512x512", "steps": 4, "mask": "half"},
        {"name": "two results", "size": "256x256", "steps": 4, "n": 2},
    ],
    SIMULATED: [
        {"name": "short", "size": "512x512", "steps": 4, "weight": 4},
        {"name": "weak", "size": "256x256", "steps": 8, "strength": 0.5, "weight": 2},
        {"name": "masked", "size": "512x512", "steps": 8, "mask": "soft"},
        {"name": "references", "size": "512x512", "steps": 4, "images": 2},
        {"name": "large", "size": "1024x1024", "steps": 4},
    ],
}


@dataclass(frozen=True, slots=True)
class Sample:
    """at_s: since the first one. memory: by the kind of process."""

    at_s: float
    memory: Mapping[str, Memory]


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples. verdict: `flat` or `falls` and why, `grows`, or that it is not decided."""

    mib_per_min: float
    standard_error: float
    verdict: str

    @property
    def flat(self) -> bool:
        return self.verdict not in (GROWS, UNDECIDED)


@dataclass(frozen=True, slots=True)
class Pace:
    """By which share the pace fell, below 0 where it rose. verdict: that it holds and why, falls, or is not decided."""

    fall: float
    standard_error: float
    verdict: str


def main() -> None:
    arguments = _arguments()
    load_before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        models = [_embedded(), _simulated(flux_kontext_configurations(Path(folder)), arguments.speed)]
        with serving(models=models) as server:
            samples, runs = asyncio.run(_soaked(server, 60.0 * arguments.minutes))
    found = report(samples, runs)
    facts = {"minutes": arguments.minutes, "speed": arguments.speed, "machine": asdict(machine(load_before))}
    arguments.out.mkdir(parents=True, exist_ok=True)
    told = {**facts, **found, "samples": [asdict(one) for one in samples]}
    (arguments.out / "soak.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    plot(samples, arguments.out / "soak.png")
    (arguments.out / "soak.md").write_text(_page(facts, found), encoding="utf-8")
    print(markdown(found))
    falls = any(pace["verdict"] == FALLS for pace in found["pace"].values())
    sys.exit(1 if found["errors"] or not found["flat"] or falls else 0)


def report(samples: Sequence[Sample], runs: Sequence[Run]) -> dict[str, Any]:
    """JSON values: slopes by kind of process, memory at both ends, errors by model and code, throughput in thirds."""
    steady = [one for one in samples if one.at_s >= WARMUP_S]
    kinds = [*sorted({kind for one in samples for kind in one.memory}), ALL, STORE]
    slopes = {kind: slope([one.at_s for one in steady], _mib(steady, kind)) for kind in kinds}
    return {
        "flat": slopes[ALL].flat and max(_mib(samples, STORE)) <= STORE_MIB,
        "slopes": {kind: asdict(one) for kind, one in slopes.items()},
        "mib": {kind: [_mib(steady, kind)[0], _mib(steady, kind)[-1]] for kind in kinds},
        "answered": {run.model: sum(one.outcome == "answered" for one in run.records) for run in runs},
        "errors": _errors(runs),
        "images_per_s_in_thirds": {run.model: in_parts(run.records, run.duration_s) for run in runs},
        "pace": {run.model: asdict(pace(in_parts(run.records, run.duration_s), run.duration_s)) for run in runs},
    }


def slope(at_s: Sequence[float], mib: Sequence[float]) -> Slope:
    """By least squares, of the means of each whole minute; samples of at least three."""
    minutes, values = _by_minute(np.asarray(at_s) / 60.0, np.asarray(mib))
    centred = minutes - minutes.mean()
    spread = float((centred**2).sum())
    rise = float((centred * values).sum()) / spread
    residuals = values - values.mean() - rise * centred
    error = float(np.sqrt((residuals**2).sum() / (len(values) - 2) / spread))
    return Slope(rise, error, _verdict(rise, error))


def _by_minute(minutes: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """Without what is left at the end, of which a few samples would count as much as the minute before."""
    number = (minutes - minutes[0]).astype(int)
    whole = round((minutes[-1] - minutes[0]) * 60 + SAMPLE_S) // 60
    each = [number == minute for minute in np.unique(number) if minute < whole]
    return np.array([minutes[one].mean() for one in each]), np.array([values[one].mean() for one in each])


def in_parts(records: Sequence[Record], duration_s: float) -> list[float]:
    """Images a second that were answered in each third of the time in which requests were sent."""
    part_s = duration_s / PARTS
    images = [0] * PARTS
    for record in records:
        if record.outcome == "answered" and record.ended_s < duration_s:
            images[int(record.ended_s // part_s)] += record.images
    return [count / part_s for count in images]


def pace(images_per_s: Sequence[float], duration_s: float) -> Pace:
    """From the first part of the time to the last; see the module's docstring."""
    first, last = (rate * duration_s / PARTS for rate in (images_per_s[0], images_per_s[-1]))
    if not first or not last:
        return Pace(1.0 if first else 0.0, 0.0, FALLS if first else UNDECIDED)
    fall, error = 1 - last / first, last / first * float(np.sqrt(1 / first + 1 / last))
    if fall + STANDARD_ERRORS * error < HELD_SHARE:
        return Pace(fall, error, f"holds: falls by less than {HELD_SHARE:.0%}")
    return Pace(fall, error, FALLS if fall > STANDARD_ERRORS * error else UNDECIDED)


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Memory over time, of all together and of the kinds that hold most."""
    minutes = [one.at_s / 60.0 for one in samples]
    kinds = sorted({kind for one in samples for kind in one.memory}, key=lambda kind: -max(_mib(samples, kind)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        for kind, colour in zip([ALL, STORE, *kinds[:SHOWN_KINDS]], reversed(COLOURS), strict=False):
            axes.plot(minutes, _mib(samples, kind), color=colour, label=kind)
        axes.axvline(WARMUP_S / 60.0, color="grey", linestyle=":")
        axes.set_xlabel("time under full load, min")
        axes.set_ylabel("proportional set size, MiB")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.savefig(path, dpi=DPI)


def markdown(found: Mapping[str, Any]) -> str:
    """The report as a table."""
    lines = ["| memory | at the warm-up's end and at last, MiB | slope, MiB/min | |", "|---|---|---|---|"]
    for kind, line in found["slopes"].items():
        first, last = found["mib"][kind]
        rise = f"{line['mib_per_min']:+.2f} ± {line['standard_error']:.2f}"
        verdict = f"may take {STORE_MIB:.0f} MiB" if kind == STORE else line["verdict"]
        lines.append(f"| {kind} | {first:.0f}, {last:.0f} | {rise} | {verdict} |")
    lines.append("")
    for model, rates in found["images_per_s_in_thirds"].items():
        told = ", ".join(f"{rate:.2f}" for rate in rates)
        change = found["pace"][model]
        lines.append(
            f"{model}: {found['answered'][model]} requests answered; images/s in thirds of the time: {told}; from the "
            f"first to the last {-change['fall']:+.1%} ± {change['standard_error']:.1%}: {change['verdict']}"
        )
    errors = ", ".join(f"{what}: {count}" for what, count in found["errors"].items())
    return "\n".join([*lines, f"errors: {errors or 'none'}"])


def _page(facts: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    about = (
        f"{machine['cpu']}, {machine['cores']} cores; `make soak`, {facts['minutes']:g} minutes; load average "
        f"{machine['load_before']:.1f} before, {machine['load_after']:.1f} at the end. {SIMULATED}: on "
        f"{played(TIMINGS, facts['speed'])}."
    )
    return f"# Soak\n\n{about}\n\n{markdown(found)}\n\n![soak.png](soak.png)\n"


def _verdict(rise: float, error: float) -> str:
    least, most = rise - STANDARD_ERRORS * error, rise + STANDARD_ERRORS * error
    if most <= -FLAT_MIB_PER_MIN:
        return FALLS
    if most < FLAT_MIB_PER_MIN:
        return f"flat: below {FLAT_MIB_PER_MIN:g} MiB/min"
    return GROWS if least > 0 else UNDECIDED


def _errors(runs: Sequence[Run]) -> dict[str, int]:
    return dict(Counter(f"{run.model} {one.code}" for run in runs for one in run.records if one.outcome != "answered"))


def _mib(samples: Sequence[Sample], kind: str) -> list[float]:
    """What processes of that kind hold for themselves, or what is in the object store."""
    if kind == STORE:
        return [sum(memory.shared_mib for memory in one.memory.values()) for one in samples]
    return [
        sum(memory.pss_mib - memory.shared_mib for name, memory in one.memory.items() if kind in (name, ALL))
        for one in samples
    ]


async def _soaked(server: RunningServer, duration_s: float) -> tuple[list[Sample], list[Run]]:
    samples: list[Sample] = []
    sampling = asyncio.create_task(_sample(server, samples))
    runs = await asyncio.gather(*(_driven(server.url, model, duration_s) for model in WORKERS))
    sampling.cancel()
    with suppress(asyncio.CancelledError):
        await sampling
    return samples, runs


async def _sample(server: RunningServer, samples: list[Sample]) -> None:
    """Until it is cancelled."""
    zero_s = time.monotonic()
    while True:
        memory = await asyncio.to_thread(server.memory_by_kind)
        samples.append(Sample(time.monotonic() - zero_s, memory))
        await asyncio.sleep(SAMPLE_S)


async def _driven(url: str, model: str, duration_s: float) -> Run:
    kinds = [{"sources": 8, **kind} for kind in _KINDS[model]]
    plan = MixedPlan(Workload.model_validate({"name": "soak", "kinds": kinds}))
    return await drive(Server(url, Shape(model=model)), plan, Closed(WORKERS[model]), Bounds(duration_s=duration_s))


def _embedded() -> dict[str, Any]:
    return {**embedded_model().model_dump(mode="json", exclude_unset=True), "threads": 1}


def _simulated(weights: Path, speed: float) -> dict[str, Any]:
    return {
        "id": SIMULATED,
        "family": "flux_kontext",
        "weights": weights,
        "backend": "simulated",
        "simulated": {"timings": TIMINGS, "speed": speed},
        "max_batch": 8,
        "num_cpus": 0.1,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--speed", type=float, default=10.0, help="of the simulated device, times an H200's")
    parser.add_argument("--out", type=Path, default=Path(".cache/soak"), help="a folder for soak.json and soak.png")
    arguments = parser.parse_args()
    if arguments.minutes < LEAST_MINUTES:
        parser.error(f"--minutes: at least {LEAST_MINUTES:g}, the first {WARMUP_S / 60:g} of which are the warm-up")
    return arguments


if __name__ == "__main__":
    main()
