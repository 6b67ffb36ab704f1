"""Plots of runs: latency over load, throughput over concurrency, and a timeline of the rows in an engine's steps.

Colours are Okabe and Ito's, which the colour-blind can tell apart, and every line has a marker or dashes of its own as
well. The ground is white whatever surrounds the picture.
"""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from benchmarks.figures import figures
from benchmarks.run import Run
from benchmarks.steplog import Step

BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#000000",
)
MARKERS = "osD^vPX"
DASHES = {"p50": "-", "p95": "--", "p99": ":"}
STYLE: dict[RcKeyType, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "font.size": 10,
}
SIZE_INCHES = (8.0, 4.8)
DPI = 150

Group = tuple[str, list[Run]]


def latency_over_load(runs: Sequence[Run], path: Path) -> bool:
    """Percentiles of the latency over the load, a colour a label. False: fewer than two loads, nothing is drawn."""
    return _over_load(runs, path, "latency", "latency, s (p50 solid, p95 dashed, p99 dotted)", _draw_percentiles)


def throughput_over_load(runs: Sequence[Run], path: Path) -> bool:
    """Images a second over the load, a colour a label. False: fewer than two loads, nothing is drawn."""
    return _over_load(runs, path, "throughput", "throughput, images/s", _draw_throughput)


def timeline(steps: Sequence[Step], path: Path, simulated: str = "") -> None:
    """Rows in each step over time: of requests, fillers above them, and as a line those that wait.

    steps: at least one, in order. simulated: the device, where it is one.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 4.8), layout="constrained")
        rows, waiting = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        _draw_steps(rows, waiting, steps)
        _titled(rows, "rows in each step of the denoiser", simulated)
        figure.savefig(path, dpi=DPI)


def _over_load(
    runs: Sequence[Run], path: Path, what: str, unit: str, draw: Callable[[Axes, Group, str, str], None]
) -> bool:
    groups = [group for group in _groups(runs) if len({_load(run) for run in group[1]}) > 1]
    if not groups:
        return False
    closed = groups[0][1][0].load.process == "closed"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        for group, colour, marker in zip(groups, cycle(COLOURS), cycle(MARKERS), strict=False):
            draw(axes, group, colour, marker)
        axes.set_xlabel("requests under way at once (closed loop)" if closed else "offered load, requests/s")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.legend()
        _titled(axes, f"{what} over {'concurrency' if closed else 'load'}", _simulated(runs))
        figure.savefig(path, dpi=DPI)
    return True


def _groups(runs: Sequence[Run]) -> list[Group]:
    """Runs by label, each in the order of its load."""
    labels = dict.fromkeys(run.label for run in runs)
    return [(label, sorted((run for run in runs if run.label == label), key=_load)) for label in labels]


def _load(run: Run) -> float:
    return run.load.concurrency or run.load.rate or 0.0


def _draw_percentiles(axes: Axes, group: Group, colour: str, marker: str) -> None:
    label, runs = group
    pairs = [(_load(run), spread) for run in runs if (spread := figures(run).latency)]
    if not pairs:
        return
    for part, dashes in DASHES.items():
        told = [(load, value) for load, spread in pairs if (value := spread.told(part)) is not None]
        fewest, most = min(spread.count for _, spread in pairs), max(spread.count for _, spread in pairs)
        named = f"{label}, n = {fewest} to {most}" if part == "p50" else None
        axes.plot(
            [load for load, _ in told], [value for _, value in told], dashes, color=colour, marker=marker, label=named
        )


def _draw_throughput(axes: Axes, group: Group, colour: str, marker: str) -> None:
    label, runs = group
    pairs = [(_load(run), rate) for run in runs if (rate := figures(run).images_per_s) is not None]
    axes.plot([load for load, _ in pairs], [rate for _, rate in pairs], color=colour, marker=marker, label=label)


def _draw_steps(rows: Axes, waiting: Axes, steps: Sequence[Step]) -> None:
    zero = steps[0].at
    edges = [at - zero for step in steps for at in (step.at, step.at + step.seconds)]
    real = [rows for step in steps for rows in (step.rows, 0)]
    filled = [rows for step in steps for rows in (step.rows + step.filler, 0)]
    rows.fill_between(edges, 0, real, step="post", color=BLUE, linewidth=0, label="rows of requests")
    rows.fill_between(edges, real, filled, step="post", color=ORANGE, linewidth=0, label="filler passes")
    rows.set_ylabel("rows")
    rows.set_ylim(bottom=0)
    rows.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    starts = [step.at - zero for step in steps]
    waiting.step(starts, [step.waiting for step in steps], where="post", color=VERMILION, clip_on=False)
    waiting.set_ylabel("rows waiting")
    waiting.set_xlabel("time since the first step, s")
    waiting.set_ylim(bottom=0)


def _simulated(runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(run.device for run in runs if run.simulated))


def _titled(axes: Axes, title: str, simulated: str) -> None:
    """A simulated device is told in the picture itself, which travels without its table."""
    axes.set_title(f"{title} ({simulated})" if simulated else title, loc="left")
