"""Tensors that a component can be called with, made from its declaration alone."""

from collections.abc import Mapping

import torch
from torch import Tensor

from serve.backends.checks import DTYPES, shape_of
from serve.types import ComponentSpec, DType


def random_inputs(spec: ComponentSpec, lengths: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """On the CPU, by name. Floating numbers are of a standard normal distribution; one number a row, as a noise level,
    is a power of 2 from 1/16 to 1, whose multiples every precision rounds alike. Whole numbers and truths are even."""
    generator = torch.Generator("cpu").manual_seed(seed)
    inputs: dict[str, Tensor] = {}
    for tensor in spec.inputs:
        shape, dtype = shape_of(tensor, lengths), DTYPES[tensor.dtype]
        if dtype.is_floating_point and len(shape) == 1:
            inputs[tensor.name] = (0.5 ** torch.randint(0, 5, shape, generator=generator)).to(dtype)
        elif dtype.is_floating_point:
            inputs[tensor.name] = torch.randn(shape, generator=generator).to(dtype)
        else:
            inputs[tensor.name] = torch.randint(0, tensor.count, shape, generator=generator).to(dtype)
    return inputs


def lengths_of(spec: ComponentSpec, drawn: Mapping[str, int], batch: int) -> dict[str, int]:
    """drawn: a family's `lengths`, of which the component takes what it declares."""
    return {axis.name: batch if axis.name == "batch" else drawn[axis.name] for axis in spec.axes}


def complete(spec: ComponentSpec, lengths: Mapping[str, int]) -> dict[str, int]:
    """With the lengths of the axes that follow from those given."""
    found = dict(lengths)
    for axis in spec.axes:
        if axis.of:
            found[axis.name] = int(axis.ratio * sum(lengths[name] for name in axis.of) + axis.plus)
    return found


def precision_of(spec: ComponentSpec) -> DType:
    """That the component computes in: of its outputs, of which none is of whole numbers alone."""
    return next(tensor.dtype for tensor in spec.outputs if DTYPES[tensor.dtype].is_floating_point)
