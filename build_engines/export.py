"""torch modules to ONNX: one graph a component, in which every axis of its declaration is free."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import Dim

from build_engines.inputs import precision_of, random_inputs
from serve.errors import ConfigurationError
from serve.types import ComponentSpec, TensorSpec

EXAMPLE_BATCH = 2
"""torch.export takes a length of 1 for a fact about the model."""
OPSETS = {"float32": (20,), "float16": (23, 20), "bfloat16": (23, 20)}
"""The first whose graph can be used. 23 has attention and RMS normalisation as one node each, which matters in half
precision; where a model mixes precisions, as T5 does, the exporter may join nodes of different types there, and what
runs the graph may be too old for it."""
LARGE_BYTES = 256 * 2**20
"""Weights beyond it go to a file of their own, as they come: a protobuf message is made in memory, several times over,
and ends at 2 GiB."""


Refusal = Callable[[Path], str | None]
"""Why a graph cannot be used; None: it can."""


def export(spec: ComponentSpec, module: nn.Module, lengths: Mapping[str, int], path: Path, *refusals: Refusal) -> int:
    """Write the module as `path`, and its weights beside it as `<path>.data` where they are large; the opset.

    lengths: of the axes in the example that the module is traced with; none may be 1. refusals: asked of each graph,
    after ONNX's own checker. Raises ConfigurationError.
    """
    fault: str | None = None
    for opset in OPSETS[precision_of(spec)]:
        write(spec, module, lengths, path, opset)
        fault = next(filter(None, (refusal(path) for refusal in (_ill_typed, *refusals))), None)
        if fault is None:
            return opset
    raise ConfigurationError(f"no ONNX graph of {spec.name} can be used: {fault}")


def write(spec: ComponentSpec, module: nn.Module, lengths: Mapping[str, int], path: Path, opset: int) -> None:
    """`export` at one opset, whose graph nothing has looked at yet."""
    inputs = random_inputs(spec, {**lengths, "batch": EXAMPLE_BATCH})
    large = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers())) > LARGE_BYTES
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (),
                kwargs=dict(inputs),
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=_dynamic_shapes(spec),
            )
        except Exception as error:  # its errors have no class in common
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigurationError(f"{spec.name} cannot be exported to ONNX: {reason}") from error
    assert program is not None
    program.save(str(path), external_data=large)
    _name_axes(path, spec)


def _ill_typed(path: Path) -> str | None:
    """What the checker of ONNX finds when it infers all types."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    return None


def _dynamic_shapes(spec: ComponentSpec) -> dict[str, dict[int, Any]]:
    """Ranges are torch's to find: relations between axes, as of a whole to its parts, cannot be told to it."""
    return {
        tensor.name: {place: Dim.DYNAMIC for place, axis in enumerate(tensor.shape) if isinstance(axis, str)}
        for tensor in spec.inputs
    }


def _name_axes(path: Path, spec: ComponentSpec) -> None:
    """The graph's axes get the declaration's names, which every tool shows. The weights are not read."""
    model = onnx.load(str(path), load_external_data=False)
    declared: dict[str, TensorSpec] = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        for dimension, axis in zip(value.type.tensor_type.shape.dim, declared[value.name].shape, strict=True):
            if isinstance(axis, str):
                dimension.dim_param = axis
    onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """The exporter speaks on the terminal, of its progress and of what is none of the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
