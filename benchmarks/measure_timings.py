"""How long the components of a model take here, by batch: a table of timings for the backend `simulated`.

`python -m benchmarks.measure_timings > table.yaml` measures the embedded model at 512x512; with `--config`
and `--model` one of a configuration. Every component runs on random inputs of the shapes that it declares. A time is
that of the fastest of several calls, after one that warms up: whatever else the machine does can only add to it.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor

from build_engines.inputs import lengths_of, random_inputs
from build_engines.parts import loaded
from serve.backends.base import Component
from serve.settings import load
from serve.types import Size


def main() -> None:
    arguments = _arguments()
    model = load(arguments.config).model(arguments.model)
    if model is None:
        sys.exit(f"the configuration has no model {arguments.model!r}")
    made = loaded(model)
    drawn = made.family.lengths(arguments.size, ())
    measured = {
        name: _timings(component, made.backend.device, drawn, arguments.batches, arguments.runs)
        for name, component in made.components.items()
    }
    width, height = arguments.size
    source = (
        f"Measured by benchmarks.measure_timings: model {model.id} on {made.backend.name}, "
        f"PyTorch {torch.__version__}, {model.precision}, {width}x{height}; the fastest of {arguments.runs} calls, "
        f"load average {os.getloadavg()[0]:.1f} at the end."
    )
    _write(source, measured)


def _timings(
    component: Component, device: torch.device, drawn: Mapping[str, int], batches: Sequence[int], runs: int
) -> dict[int, float]:
    """Seconds of a call by batch, to the microsecond."""
    timings: dict[int, float] = {}
    for batch in batches:
        made = random_inputs(component.spec, lengths_of(component.spec, drawn, batch))
        inputs = {name: tensor.to(device) for name, tensor in made.items()}
        seconds = [_seconds(component, inputs) for _ in range(runs + 1)]
        timings[batch] = round(min(seconds[1:]), 6)
        print(f"{component.spec.name}, batch {batch}: {timings[batch]} s", file=sys.stderr)
    return timings


def _seconds(component: Component, inputs: Mapping[str, Tensor]) -> float:
    """Until the answers could be read."""
    started = time.perf_counter()
    for output in component(inputs).values():
        output.flatten()[0].item()
    return time.perf_counter() - started


def _write(source: str, measured: Mapping[str, Mapping[int, float]]) -> None:
    head = yaml.safe_dump({"source": source}, width=110)
    print(f"{head}components:")
    for name, timings in measured.items():
        points = ", ".join(f"{batch}: {seconds}" for batch, seconds in timings.items())
        print(f"  {name}:\n    - seconds: {{{points}}}")


def _size(text: str) -> Size:
    width, height = text.split("x")
    return int(width), int(height)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", default="", help="an id of the configuration; without, its default model")
    parser.add_argument("--size", type=_size, default=(512, 512), metavar="WIDTHxHEIGHT", help="of the picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--runs", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
