"""Whether tensors fit what a component declares: run before and after each call, whatever the executor."""

from collections.abc import Iterable, Mapping
from typing import get_args

import torch
from torch import Tensor

from serve.types import Axis, ComponentSpec, DType, TensorSpec

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "bool": torch.bool,
}
"""Of torch, by the name that a `TensorSpec` gives it."""


def name_of(dtype: torch.dtype) -> DType:
    """The inverse of `DTYPES`."""
    names: tuple[DType, ...] = get_args(DType)
    return next(name for name in names if DTYPES[name] == dtype)


class Checks:
    """The checks of one component on one device."""

    def __init__(self, spec: ComponentSpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self._axes = {axis.name: axis for axis in spec.axes}

    def inputs(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """The length of every axis of the spec in this call, those that only outputs have included.

        Raises ValueError that names the tensor or the axis: names, types, device, shapes, and how axes relate.
        """
        expected = {tensor.name for tensor in self._spec.inputs}
        if set(tensors) != expected:
            raise ValueError(f"{self._spec.name} takes {_listed(expected)}; found {_listed(tensors)}")
        lengths: dict[str, int] = {}
        for tensor in self._spec.inputs:
            self._check_type(tensor, tensors[tensor.name])
            self._check_shape(tensor, tuple(tensors[tensor.name].shape), lengths)
        return self._related(lengths)

    def outputs(self, tensors: Mapping[str, Tensor], lengths: Mapping[str, int]) -> None:
        """lengths: as `inputs` answered them. Raises RuntimeError for an answer of another shape than declared."""
        for spec in self._spec.outputs:
            found, expected = tuple(tensors[spec.name].shape), shape_of(spec, lengths)
            if found != expected:
                raise RuntimeError(
                    f"{self._spec.name} answered {spec.name} of shape {_shown(found)}; declared is {_shown(expected)}"
                )

    def _check_type(self, spec: TensorSpec, tensor: Tensor) -> None:
        if tensor.dtype != DTYPES[spec.dtype]:
            found = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{self._spec.name}: tensor {spec.name} must be {spec.dtype}; found {found}")
        if tensor.device != self._device:
            raise ValueError(f"{self._spec.name}: tensor {spec.name} must be on {self._device}; found {tensor.device}")

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], lengths: dict[str, int]) -> None:
        """lengths: of the axes seen so far in this call, which later tensors must repeat; filled here."""
        where = f"{self._spec.name}: tensor {spec.name}"
        if len(shape) != len(spec.shape):
            raise ValueError(f"{where} must have shape {_shown(spec.shape)}; found {_shown(shape)}")
        for expected, found in zip(spec.shape, shape, strict=True):
            if isinstance(expected, int):
                if found != expected:
                    raise ValueError(f"{where} must have shape {_shown(spec.shape)}; found {_shown(shape)}")
                continue
            _check_range(where, self._axes[expected], found)
            if lengths.setdefault(expected, found) != found:
                raise ValueError(
                    f"{where}: axis {expected} must be {lengths[expected]} as in the tensors before; found {found}"
                )

    def _related(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """With the lengths that follow from others; those that the inputs gave as well must agree."""
        complete = dict(lengths)
        for axis in self._spec.axes:
            if not axis.of:
                continue
            length = axis.ratio * sum(lengths[name] for name in axis.of) + axis.plus
            if length.denominator != 1 or lengths.get(axis.name, length) != length:
                raise ValueError(f"{self._spec.name}: {self._mismatch(axis, lengths)}")
            _check_range(self._spec.name, axis, int(length))
            complete[axis.name] = int(length)
        return complete

    def _mismatch(self, axis: Axis, lengths: Mapping[str, int]) -> str:
        names = (*axis.of, axis.name) if axis.name in lengths else axis.of
        found = ", ".join(f"{name} {lengths[name]}" for name in names)
        return f"axis {axis.name} must be {relation(axis)}; found {found}"


def shape_of(spec: TensorSpec, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """The tensor's shape where every axis has the length given."""
    return tuple(size if isinstance(size, int) else lengths[size] for size in spec.shape)


def relation(axis: Axis) -> str:
    """How the axis follows from others, to read: `1/8 of height`, `tokens + reference_tokens + 512`."""
    others = " + ".join(axis.of)
    scaled = others if axis.ratio == 1 else f"{axis.ratio} of {others if len(axis.of) == 1 else f'({others})'}"
    return f"{scaled} + {axis.plus}" if axis.plus else scaled


def _check_range(where: str, axis: Axis, found: int) -> None:
    if not axis.min <= found <= axis.max:
        raise ValueError(f"{where}: axis {axis.name} must be {axis.min} to {axis.max}; found {found}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(str(axis) for axis in shape)})"
