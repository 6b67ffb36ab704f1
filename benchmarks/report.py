"""A report of runs in a folder: their table, their plots, and the JSON files stay as they are."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic_core import to_json

from benchmarks import run as runs_file
from benchmarks import steplog
from benchmarks.errors import BenchError
from benchmarks.figures import figures
from benchmarks.run import Run
from benchmarks.tables import table

TABLE = "report.md"


def save(run: Run, path: Path) -> None:
    """The run with its figures, as JSON. Raises BenchError."""
    content = to_json({**runs_file.dumped(run), "figures": asdict(figures(run))}, indent=1)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from None


def write(runs: Sequence[Run], folder: Path, step_log: Path | None = None) -> list[Path]:
    """Write the table, and those plots for which the runs are enough; answers the files. Raises BenchError.

    step_log: of one of the runs' servers; its steps within the runs' time are drawn.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots = _plots(runs, folder, step_log)
        pictures = "".join(f"\n![{path.stem}]({path.name})\n" for path in plots)
        (folder / TABLE).write_text(f"{table(runs)}\n{pictures}", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{error.filename} cannot be written: {error.strerror}") from None
    return [folder / TABLE, *plots]


def _plots(runs: Sequence[Run], folder: Path, step_log: Path | None) -> list[Path]:
    try:
        from benchmarks import plots  # noqa: PLC0415  # An extra, which a table alone can do without.
    except ModuleNotFoundError:
        raise BenchError("plots need matplotlib: pip install -e '.[bench]'") from None
    drawn: list[Path] = []
    for name, some in (
        ("open", [run for run in runs if run.load.process != "closed"]),
        ("closed", [run for run in runs if run.load.process == "closed"]),
    ):
        latency, throughput = folder / f"latency-{name}-loop.png", folder / f"throughput-{name}-loop.png"
        drawn += [latency] if plots.latency_over_load(some, latency) else []
        drawn += [throughput] if plots.throughput_over_load(some, throughput) else []
    if step_log:
        steps = _steps_within(runs, step_log)
        devices = dict.fromkeys(run.device for run in runs if run.simulated)
        plots.timeline(steps, folder / "timeline.png", ", ".join(devices))
        drawn.append(folder / "timeline.png")
    return drawn


def _steps_within(runs: Sequence[Run], step_log: Path) -> list[steplog.Step]:
    spans = [(run.started_at, run.started_at + run.wall_s) for run in runs]
    steps = [step for step in steplog.read(step_log) if any(begin <= step.at <= end for begin, end in spans)]
    if not steps:
        raise BenchError(f"step log {step_log} has no step within the time of the runs")
    return steps
