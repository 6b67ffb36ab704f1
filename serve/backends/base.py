"""What an executor of components offers to the families and the engine."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from serve.types import ComponentSpec


class Component(Protocol):
    """One loaded neural component."""

    spec: ComponentSpec

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run once. inputs: one tensor for each of `spec.inputs`, by name, equal in their batch axis.

        Answers one tensor for each of `spec.outputs`, on the backend's device; the caller may keep and change them.
        Raises ValueError for a tensor that does not fit the spec, BackendUnavailable when the executor is gone.
        """
        ...


class Backend(Protocol):
    """device and dtype: where and in which precision components expect their inputs.

    batch_invariant: a row's bytes are the same at every batch size. Where it is False the engine always runs one size.
    """

    device: torch.device
    dtype: torch.dtype
    batch_invariant: bool

    def load(self, spec: ComponentSpec, module: Callable[[], torch.nn.Module]) -> Component:
        """Make `spec` ready to run. module: builds the reference torch module, called only where weights are needed.

        Its forward takes the inputs by name and returns one tensor, or a tuple in the order of `spec.outputs`.
        """
        ...
