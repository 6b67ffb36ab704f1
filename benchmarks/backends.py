"""How long each component takes on each executor that runs on a CPU: `python -m benchmarks.backends`.

The embedded model's components, all executors in one process and in turns, so that what else the machine does falls on
all of them. The engines are built first where they are not up to date, each executor's into a repository of its own.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import load_average, machine
from build_engines.build import Wish, build_model
from build_engines.inputs import lengths_of, random_inputs
from build_engines.parts import Loaded, loaded
from serve.cpus import usable_cpus
from serve.settings import ModelSettings, embedded_model
from serve.types import Size

REFERENCE = "torch float32"
EXECUTORS: tuple[tuple[str, str], ...] = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
)
WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Figure:
    """ms: of each call. ratio: of the medians, of torch's time in float32 to this."""

    executor: str
    component: str
    batch: int
    ms: tuple[float, ...]
    ratio: float


def main() -> None:
    arguments = _arguments()
    load_before = load_average()
    size = (arguments.side, arguments.side)
    models = {" ".join(one): _loaded(*one, arguments.repositories) for one in EXECUTORS}
    found = [
        figure
        for component in models[REFERENCE].components
        for batch in arguments.batches
        for figure in measured(
            {name: _call(made, component, size, batch) for name, made in models.items()},
            component,
            batch,
            arguments.repeats,
        )
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {
        "side": arguments.side,
        "machine": asdict(machine(load_before)),
        "figures": [asdict(one) for one in found],
    }
    (arguments.out / "backends.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    table = markdown(found)
    where = told["machine"]
    about = f"{where['cpu']}, {where['cores']} cores, {arguments.side}x{arguments.side}, {arguments.repeats} rounds."
    (arguments.out / "backends.md").write_text(f"# Executors on a CPU\n\n{about}\n\n{table}\n", encoding="utf-8")
    print(table)


def measured(calls: Mapping[str, Callable[[], object]], component: str, batch: int, repeats: int) -> list[Figure]:
    """Of one component, by executor; every round calls each of them once."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - started) * 1e3)
    reference = median(times[REFERENCE])
    return [Figure(name, component, batch, tuple(ms), reference / median(ms)) for name, ms in times.items()]


def markdown(figures: Sequence[Figure]) -> str:
    """Median, quickest and slowest in ms, and how many times as fast as torch in float32."""
    lines = ["| component | batch | executor | ms | times torch float32 |", "|---|---|---|---|---|"]
    for one in figures:
        ms = f"{median(one.ms):.1f} ({min(one.ms):.1f} to {max(one.ms):.1f})"
        lines.append(f"| {one.component} | {one.batch} | {one.executor} | {ms} | {one.ratio:.2f} |")
    return "\n".join(lines)


def _loaded(backend: str, precision: str, repositories: Path) -> Loaded:
    known = embedded_model().model_dump(mode="json", include={"id", "family", "weights"})
    repository = repositories / f"{backend}-{precision}"
    model = ModelSettings.model_validate(
        {**known, "backend": backend, "precision": precision, "model_repository": repository, "threads": usable_cpus()}
    )
    if backend != "torch":
        build_model(model, Wish(), lambda component, doing, share: None)
    return loaded(model)


def _call(made: Loaded, component: str, size: Size, batch: int) -> Callable[[], object]:
    called = made.components[component]
    inputs = random_inputs(called.spec, lengths_of(called.spec, made.family.lengths(size, ()), batch))
    return lambda: called(inputs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--repositories", type=Path, default=Path(".cache/backends"), help="where engines are built")
    parser.add_argument("--out", type=Path, default=Path(".cache/backends"), help="for backends.json and backends.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
