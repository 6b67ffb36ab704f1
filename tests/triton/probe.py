"""A component that hands its inputs on, so that a test sees what reached Triton and what came back: echo.py."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from build_engines.inputs import random_inputs
from build_engines.triton_config import NO_SHAPES, config_text
from serve.backends.manifest import VERSION, triton_name
from serve.backends.shapes import Range, Shapes
from serve.types import Axis, ComponentSpec, TensorSpec

MAX_BATCH = 4
"""Rows that the server takes of the probe, which declares more."""
PROBE = "probe"
PROBED = ComponentSpec(
    name="echo",
    inputs=(
        TensorSpec("single", "float32", ("batch", 3, "length")),
        TensorSpec("half", "float16", ("batch", "length")),
        TensorSpec("brain", "bfloat16", ("batch", "length")),
        TensorSpec("ids", "int64", ("batch", "length")),
        TensorSpec("mask", "bool", ("batch", "length")),
        TensorSpec("seconds", "float32", ("batch",)),
    ),
    outputs=(
        TensorSpec("single_out", "float32", ("batch", 3, "length")),
        TensorSpec("half_out", "float16", ("batch", "length")),
        TensorSpec("brain_out", "bfloat16", ("batch", "length")),
        TensorSpec("ids_out", "int64", ("batch", "length")),
        TensorSpec("mask_out", "bool", ("batch", "length")),
        TensorSpec("seconds_out", "float32", ("batch",)),
    ),
    axes=(Axis("batch", 1, 1, 64), Axis("length", 1, 8, 100_000)),
)


BOUNDED = Shapes(ranges=(Range(low={"batch": 1, "length": 2}, high={"batch": MAX_BATCH, "length": 8}),))
"""Of a plan, as its configuration tells them."""


def add_probe(
    repository: Path, component: str = PROBED.name, change: Callable[[str], str] = str, shapes: Shapes = NO_SHAPES
) -> None:
    """tests/triton/echo.py as a component of the model `probe`. change: of its configuration. shapes: that it tells."""
    name = triton_name(PROBE, component)
    served = replace(PROBED, axes=(replace(PROBED.axes[0], max=MAX_BATCH), *PROBED.axes[1:]))
    (repository / name / VERSION).mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("echo.py"), repository / name / VERSION / "model.py")
    (repository / name / "config.pbtxt").write_text(change(config_text(name, served, "python", shapes)))


def probe_inputs(length: int, seed: int = 0, seconds: float = 0.0) -> dict[str, Tensor]:
    """Of two rows."""
    inputs = random_inputs(PROBED, {"batch": 2, "length": length}, seed)
    return {**inputs, "seconds": torch.full((2,), float(seconds))}
