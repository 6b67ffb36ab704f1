"""How long the components of a model take here, by batch: a table of timings for the backend `simulated`.

`python -m benchmarks.measure_timings > table.yaml` measures the embedded model at 512x512; with `--config` and
`--model` one of a configuration. Every component runs on random inputs of the shapes that it declares. `--axis
NAME=LENGTH` sets how long an axis is; without, it is as long as the component is optimised for. A time is that of the
fastest of several calls, after one that warms up: whatever else the machine does can only add to it.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from serve.backends import load_backend
from serve.backends.base import Backend, Component
from serve.backends.checks import DTYPES, shape_of
from serve.families import load_family
from serve.settings import load
from serve.types import Axis, ComponentSpec, TensorSpec


class Recorder:
    """A backend that keeps what it loads."""

    def __init__(self, backend: Backend) -> None:
        self.components: list[Component] = []
        self._backend = backend
        self.name, self.device, self.dtype = backend.name, backend.device, backend.dtype
        self.batch_invariant, self.memory = backend.batch_invariant, backend.memory

    def load(self, spec: ComponentSpec, module: Callable[[], nn.Module]) -> Component:
        component = self._backend.load(spec, module)
        self.components.append(component)
        return component


def main() -> None:
    arguments = _arguments()
    model = load(arguments.config).model(arguments.model)
    if model is None:
        sys.exit(f"the configuration has no model {arguments.model!r}")
    recorder = Recorder(load_backend(model))
    load_family(model, recorder)
    chosen = dict(arguments.axis)
    measured = {
        component.spec.name: _timings(component, recorder.device, chosen, arguments.batches, arguments.runs)
        for component in recorder.components
    }
    axes = sorted({(axis.name, chosen.get(axis.name, axis.opt)) for axis in _free_axes(recorder.components)})
    source = (
        f"Measured by benchmarks.measure_timings: model {model.id} on {recorder.name}, PyTorch {torch.__version__}, "
        f"{model.precision}, {', '.join(f'{name} {length}' for name, length in axes)}; "
        f"the fastest of {arguments.runs} calls, load average {os.getloadavg()[0]:.1f} at the end."
    )
    _write(source, measured)


def lengths_of(axes: Sequence[Axis], chosen: Mapping[str, int]) -> dict[str, int]:
    """Of every axis: as it follows from others, as chosen, or its optimum."""
    lengths = {axis.name: chosen.get(axis.name, axis.opt) for axis in axes if not axis.of}
    related = (axis for axis in axes if axis.of)
    return lengths | {a.name: int(a.ratio * sum(lengths[name] for name in a.of)) + a.plus for a in related}


def random_inputs(spec: ComponentSpec, lengths: Mapping[str, int], device: torch.device) -> dict[str, Tensor]:
    """One tensor for each of the inputs, the same at every call; integers are 1: a known token, an open mask."""
    generator = torch.Generator("cpu").manual_seed(0)
    return {tensor.name: _random(tensor, lengths, generator).to(device) for tensor in spec.inputs}


def _random(spec: TensorSpec, lengths: Mapping[str, int], generator: torch.Generator) -> Tensor:
    shape, dtype = shape_of(spec, lengths), DTYPES[spec.dtype]
    return (
        torch.rand(shape, generator=generator).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)
    )


def _free_axes(components: Sequence[Component]) -> list[Axis]:
    return [axis for one in components for axis in one.spec.axes if not axis.of and axis.name != "batch"]


def _timings(
    component: Component, device: torch.device, chosen: Mapping[str, int], batches: Sequence[int], runs: int
) -> dict[int, float]:
    """Seconds of a call by batch, to the microsecond."""
    timings: dict[int, float] = {}
    for batch in batches:
        lengths = lengths_of(component.spec.axes, {**chosen, "batch": batch})
        inputs = random_inputs(component.spec, lengths, device)
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


def _axis(text: str) -> tuple[str, int]:
    name, length = text.split("=")
    return name, int(length)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", default="", help="an id of the configuration; without, its default model")
    parser.add_argument("--axis", type=_axis, action="append", default=[], metavar="NAME=LENGTH")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--runs", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
