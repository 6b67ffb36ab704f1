"""The picture of the results: what each way to batch reaches, and what a quick edit waits for, over the load."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.figures import Spread
from benchmarks.plots import BLUE, DPI, GREEN, ORANGE, STYLE
from benchmarks.run import Run

NAMES = {
    "ours": "Retouch: rows join and leave at every step",
    "requests": "whole requests of equal parameters",
    "single": "one request at a time",
}
LOOKS = {"ours": (BLUE, "o"), "requests": (GREEN, "s"), "single": (ORANGE, "^")}
SECONDS = (0.5, 1, 2, 5, 10, 20, 50, 100)
LABEL = "Qwen-Image on an H200 at 512 px, mixed edits of 4 to 50 steps"


def draw(
    rates: Mapping[str, Sequence[float]], curve: Sequence[Run], quick: tuple[str, ...], speed: float, path: Path
) -> None:
    """rates: images a second of the device when saturated, a value a run, for `ours`, `requests` and `single`.

    curve: open-loop runs labelled like them, of a device that runs so many times as fast as the one that it plays; the
    picture shows that one's time. quick: how the names of the kinds begin whose latency is drawn. A load with too
    few of them for a p95 has no point.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[2, 3])
        _draw_rates(left, rates)
        _draw_curve(right, curve, quick, speed)
        devices = ", ".join(dict.fromkeys(run.device for run in curve))
        figure.suptitle(f"{LABEL} ({devices}, in that device's own time)", x=0.01, ha="left", fontsize=10)
        figure.savefig(path, dpi=DPI)


def _draw_rates(axes: Axes, rates: Mapping[str, Sequence[float]]) -> None:
    for place, name in enumerate(NAMES):
        middle = float(np.median(rates[name]))
        spread = [[middle - min(rates[name])], [max(rates[name]) - middle]]
        axes.bar(place, middle, color=LOOKS[name][0], yerr=spread, capsize=4)
        axes.annotate(f"{middle:.2f}", (place, max(rates[name])), (0, 6), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(NAMES)), ["Retouch", "whole\nrequests", "one at\na time"])
    axes.set_ylabel("edits a second on one device, saturated")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.15)


def _draw_curve(axes: Axes, curve: Sequence[Run], quick: tuple[str, ...], speed: float) -> None:
    for name, (colour, marker) in LOOKS.items():
        spreads = [(run, spread) for run in curve if run.label == name and (spread := _spread(run, quick))]
        points = sorted(
            ((run.load.rate or 0.0) / speed, speed * p95)
            for run, spread in spreads
            if (p95 := spread.told("p95")) is not None
        )
        counts = [spread.count for _, spread in spreads]
        label = f"{NAMES[name]}, n = {min(counts, default=0)} to {max(counts, default=0)}"
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=marker, label=label)
    axes.set_yscale("log")
    axes.set_yticks(SECONDS, [f"{seconds:g}" for seconds in SECONDS])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    axes.set_xlabel("offered load, edits a second")
    axes.set_ylabel("p95 latency of quick edits (at most 8 steps), s")
    axes.legend(loc="upper right")


def _spread(run: Run, quick: tuple[str, ...]) -> Spread | None:
    taken = [one.latency_s for one in run.records if one.outcome == "answered" and one.kind.startswith(quick)]
    return Spread.of(taken)
