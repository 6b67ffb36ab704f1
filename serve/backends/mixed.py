"""Several executors as one: a component may run elsewhere, and in another precision, than the others of its model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from serve.backends.base import Backend, Build, Component
from serve.backends.checks import DTYPES, name_of
from serve.types import ComponentSpec, DType, TensorSpec


class MixedBackend:
    """main: what components without an executor of their own run on; the tensors between all of them are its tensors.

    others: by component. Memory is `main`'s, where the denoiser is expected to be.
    """

    def __init__(self, main: Backend, others: Mapping[str, Backend]) -> None:
        self._main, self._others = main, others
        self.device, self.dtype, self.memory = main.device, main.dtype, main.memory
        self.batch_invariant = all(backend.batch_invariant for backend in (main, *others.values()))
        self.name = "; ".join([main.name, *(f"{name}: {backend.name}" for name, backend in others.items())])

    def close(self) -> None:
        for backend in (self._main, *self._others.values()):
            backend.close()

    def check(self) -> None:
        for backend in (self._main, *self._others.values()):
            backend.check()

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> Component:
        backend = self._others.get(spec.name)
        if backend is None:
            return self._main.load(spec, module, weights)
        inner = with_precision(spec, name_of(self.dtype), name_of(backend.dtype))
        return _Bridged(spec, backend.load(inner, module, weights), backend.device)


class _Bridged:
    """Moves tensors to where a component runs, and its answers back."""

    def __init__(self, spec: ComponentSpec, component: Component, device: torch.device) -> None:
        self.spec = replace(spec, axes=component.spec.axes)  # which may take fewer rows than is declared
        self._component = component
        self._device = device
        self._inner = {tensor.name: tensor for tensor in component.spec.inputs}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        home = next(iter(inputs.values())).device
        given = {name: tensor.to(self._device, DTYPES[self._inner[name].dtype]) for name, tensor in inputs.items()}
        answers = self._component(given)
        return {tensor.name: answers[tensor.name].to(home, DTYPES[tensor.dtype]) for tensor in self.spec.outputs}


def with_precision(spec: ComponentSpec, old: DType, new: DType) -> ComponentSpec:
    """The declaration of a component that computes in another floating type; tensors of a fixed type keep it."""

    def changed(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(tensor, dtype=new) if tensor.dtype == old and not tensor.fixed else tensor for tensor in tensors
        )

    return replace(spec, inputs=changed(spec.inputs), outputs=changed(spec.outputs))
