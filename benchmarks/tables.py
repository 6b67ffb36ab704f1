"""Runs in Markdown: one beside the other, or one side's ratio to the other's.

`rows` flattens a run into named values, which both tables and plots take. A value that is not known is `n/a`, and so is
a percentile of fewer samples than it needs (`figures.MIN_SAMPLES`). A comparison says first in what the two sides
differ beside their results; where they did not send the same work it says that they are NOT COMPARABLE.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.figures import Figures, KindFigures, Spread, figures
from benchmarks.run import Lag, Run

Values = dict[str, float | None]
PERCENTILES = ("mean", "p50", "p90", "p95", "p99", "max")
MIB = 2**20
SHOWN_CHARACTERS = 100
"""Of a value in which two sides differ; longer ones are in the runs' files."""


def rows(run: Run) -> Values:
    """All figures of a run by name, with their units."""
    found = figures(run)
    return {
        "images/s": found.images_per_s,
        "requests/s": found.requests_per_s,
        "row-steps/s": found.row_steps_per_s,
        "offered, requests/s": found.offered_per_s,
        **_latency("latency", found.latency),
        "within deadline": found.within_deadline,
        **{f"{name}, requests": count for name, count in _counts(found).items()},
        **{f"error {code}, requests": float(count) for code, count in found.errors.items()},
        **_by_kind(found.kinds),
        **_stages(found.stages_ms),
        **_engine(run),
        **_lag("send lag", found.send_lag),
        **_lag("loop lag", found.loop_lag),
        "saturated window, s": found.window.length_s if found.window else None,
        "wall time, s": found.wall_s,
        "load average before": run.machine.load_before,
        "load average after": run.machine.load_after,
    }


def table(runs: Sequence[Run]) -> str:
    """The figures of runs, one column a run, under what they were made with."""
    values = _all_rows(runs)
    heads = [f"{number}" for number in range(1, len(runs) + 1)]
    body = _markdown(["figure", *heads], [[name, *(shown(v.get(name)) for v in values)] for name in _names(values)])
    return _page(runs, [line for head, run in zip(heads, runs, strict=True) for line in _about(head, run)], body)


@dataclass(frozen=True, slots=True)
class _Side:
    """One figure over the runs of a side that know it."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float | None:
        return median(self.values) if self.values else None

    def shown(self) -> str:
        """The value, or the least, median and greatest of several."""
        if len(self.values) < 2:
            return shown(self.middle)
        return " / ".join(shown(value) for value in (min(self.values), median(self.values), max(self.values)))


def comparison(a: Sequence[Run], b: Sequence[Run]) -> str:
    """The ratio B/A of every figure, of the medians where a side has several runs, with each side's spread."""
    values = _all_rows([*a, *b])
    sides = values[: len(a)], values[len(a) :]
    lines: list[list[str]] = []
    for name in _names(values):
        left, right = (_Side(tuple(v for run in side if (v := run.get(name)) is not None)) for side in sides)
        lines.append([name, left.shown(), right.shown(), shown(ratio(left.middle, right.middle))])
    heads = [
        f"{name}, {len(runs)} run{'s: min / median / max' if len(runs) > 1 else ''}"
        for name, runs in (("A", a), ("B", b))
    ]
    about = [line for name, runs in (("A", a), ("B", b)) for run in runs for line in _about(name, run)]
    return "\n".join([*_differences(a, b), _page([*a, *b], about, _markdown(["figure", *heads, "B/A"], lines))])


def ratio(a: float | None, b: float | None) -> float | None:
    """b / a; None where one is not known, or a is 0."""
    return b / a if a and b is not None else None


def shown(value: float | None) -> str:
    """Four significant digits at most, without an exponent."""
    if value is None:
        return "n/a"
    if value == int(value):
        return f"{int(value)}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}"


def load_text(run: Run) -> str:
    """How requests came, in a few words."""
    load = run.load
    if load.process == "closed":
        return f"closed loop, concurrency {load.concurrency}"
    rate = f"{load.rate:.3g} requests/s" if load.rate else ""
    return f"Poisson arrivals, {rate}" if load.process == "poisson" else f"arrivals of {load.origin} {rate}".rstrip()


Told = Callable[[Run], object]

_SAME_WORK: Mapping[str, Told] = {
    "the plan": lambda run: run.plan or run.workload,
    "how requests come": load_text,
    "the seed": lambda run: run.seed,
    "fields that were not sent": lambda run: ", ".join(run.withheld) or "none",
    "the bounds": lambda run: f"{run.requests or 'any number of'} requests, {run.duration_s:g} s of sending",
}
_SAME_YARDSTICK: Mapping[str, Told] = {
    "solo times, which set the deadlines": lambda run: {kind: round(s, 3) for kind, s in sorted(run.solo_s.items())},
    "the harness's processor": lambda run: f"{run.machine.cpu}, {run.machine.cores} cores",
    "the simulated device": lambda run: run.device if run.simulated else "none",
}


def _differences(a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    """What the sides do not have in common; of several runs a side, what any of them has."""
    work, yardstick = (_differing(told, a, b) for told in (_SAME_WORK, _SAME_YARDSTICK))
    if not work and not yardstick:
        return []
    verdict = "**NOT COMPARABLE**: the sides did not do the same work." if work else "**The sides differ**:"
    return [verdict, "", *(f"- {line}" for line in [*work, *yardstick]), ""]


def _differing(told: Mapping[str, Told], a: Sequence[Run], b: Sequence[Run]) -> list[str]:
    found: list[str] = []
    for name, of in told.items():
        left, right = (list(dict.fromkeys(str(of(run)) for run in side)) for side in (a, b))
        if set(left) != set(right):
            short = all(len(one) <= SHOWN_CHARACTERS for one in [*left, *right])
            found.append(f"{name}: {' and '.join(left)} against {' and '.join(right)}" if short else f"{name} differ")
    return found


def _counts(found: Figures) -> dict[str, float]:
    return {
        "sent": found.sent,
        "answered": found.answered,
        "refused": found.refused,
        "failed": found.failed,
        "unfinished": found.unfinished,
    }


def _latency(name: str, spread: Spread | None) -> Values:
    values: Values = {f"{name}, samples": float(spread.count if spread else 0)}
    return {**values, **{f"{name} {part}, s": spread.told(part) if spread else None for part in PERCENTILES}}


def _by_kind(kinds: Mapping[str, KindFigures]) -> Values:
    """Of a single kind only what all requests together do not tell."""
    if len(kinds) == 1:
        return {f"[{kind}] solo time, s": found.solo_s for kind, found in kinds.items()}
    values: Values = {}
    for kind, found in kinds.items():
        values |= {f"[{kind}] sent, requests": found.sent, f"[{kind}] solo time, s": found.solo_s}
        values |= _latency(f"[{kind}] latency", found.latency)
        values[f"[{kind}] within deadline"] = found.within_deadline
    return values


def _stages(stages: Mapping[str, Spread]) -> Values:
    parts = ("mean", "p50", "p99")
    return {f"stage {name} {part}, ms": spread.told(part) for name, spread in stages.items() for part in parts}


def _engine(run: Run) -> Values:
    engine = run.engine
    if engine is None:
        return {"mean rows a step": None, "share of filler passes": None, "peak memory, MiB": None}
    peak = engine.memory_peak_bytes
    return {
        "steps": engine.steps,
        "mean rows a step": engine.rows_per_step,
        "share of filler passes": engine.filler_share,
        "wasted row-steps": engine.wasted_row_steps,
        "cancelled rows": engine.cancelled_rows,
        **{f"cache hit rate, {kind}": rate for kind, rate in engine.hit_rates.items()},
        "peak memory, MiB": None if peak is None else peak / MIB,
        "rows waiting at the end": engine.waiting_rows,
        "rows running at the end": engine.running_rows,
    }


def _lag(name: str, lag: Lag) -> Values:
    parts = {"mean": lag.mean_s, "p99": lag.p99_s, "max": lag.max_s}
    return {f"{name} {part}, ms": seconds * 1000 for part, seconds in parts.items()}


def _all_rows(runs: Sequence[Run]) -> list[Values]:
    """An error that another run had and this one did not has come 0 times here."""
    values = [rows(run) for run in runs]
    errors: Values = {name: 0.0 for name in _names(values) if name.startswith("error ")}
    return [{**run, **{name: run.get(name, zero) for name, zero in errors.items()}} for run in values]


def _page(runs: Sequence[Run], about: Sequence[str], body: str) -> str:
    return "\n".join([*_banner(runs), *about, *_machines(runs), "", body])


def _banner(runs: Sequence[Run]) -> list[str]:
    devices = dict.fromkeys(run.device for run in runs if run.simulated)
    if not devices:
        return []
    return [f"**Simulated**: the backend's times come from a table, not from a device ({'; '.join(devices)}).", ""]


def _about(head: str, run: Run) -> list[str]:
    """What a run was made with, and what speaks against it."""
    found = figures(run)
    facts = ", ".join(str(run.facts[name]) for name in ("id", "family", "backend", "precision") if name in run.facts)
    return [
        f"- **{head}**: {run.label}; workload {run.workload}, {load_text(run)}, seed {run.seed}, "
        f"{found.sent} requests after {run.warmup} of warm-up; {run.form} to {run.url} ({facts or 'model not told'})",
        *(f"  - **NOT GOOD**: {problem}" for problem in found.problems),
        *(f"  - note: {note}" for note in found.notes),
    ]


def _machines(runs: Sequence[Run]) -> list[str]:
    """Where the harness ran and with what, each once."""
    return [f"- harness on {machine}" for machine in dict.fromkeys(_machine(run) for run in runs)]


def _machine(run: Run) -> str:
    machine = run.machine
    made = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB; {machine.system}; {made}"


def _names(values: Sequence[Values]) -> list[str]:
    return list(dict.fromkeys(name for run in values for name in run))


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))
