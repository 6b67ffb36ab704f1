"""What an executor of components offers to the families and the engine."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from serve.errors import BackendLost, DeviceOutOfMemory
from serve.types import ComponentSpec

_CPU_ALLOCATOR = "DefaultCPUAllocator"
"""Begins what torch raises when the machine's memory is out, which has no class of its own."""


Build = Callable[[torch.dtype], torch.nn.Module]
"""Makes the reference torch module of a component, with weights of this type; its forward takes the inputs by name and
returns one tensor, or a tuple in the order of the outputs."""


class Component(Protocol):
    """One loaded neural component."""

    spec: ComponentSpec

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run once. inputs: one tensor for each of `spec.inputs`, by name, equal in their batch axis.

        Answers one tensor for each of `spec.outputs`, on the backend's device; the caller may keep and change them.
        Raises ValueError for a tensor that does not fit the spec, DeviceOutOfMemory when there was no memory for this
        call, BackendUnavailable where another may succeed, BackendLost when the executor is gone.
        """
        ...


class DeviceMemory(Protocol):
    """The memory that components and the tensors beside them work in."""

    def capacity_bytes(self) -> int:
        """What this process may hold there in all, the weights included; what other processes hold is taken off."""
        ...

    def used_bytes(self) -> int:
        """What this process holds there now."""
        ...

    def peak_bytes(self) -> int:
        """The most that it held since `reset_peak`."""
        ...

    def reset_peak(self) -> None: ...

    def release(self) -> None:
        """Give back what is kept for reuse and not in use."""
        ...


class Backend(Protocol):
    """device and dtype: where and in which precision components expect their inputs.

    name: of the executor and its device, for people and for what is measured once and kept ("torch, NVIDIA H200").
    batch_invariant: a row's bytes are the same at every batch size. Where it is False the engine always runs one size.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    batch_invariant: bool
    memory: DeviceMemory

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> Component:
        """Make `spec` ready to run. module: called only where it is needed. weights: the folder that it is made from.

        Raises ConfigurationError: the component cannot run as it is configured.
        """
        ...

    def close(self) -> None:
        """Let go of what would outlive this process. Called when no call is under way."""
        ...

    def check(self) -> None:
        """Raises BackendUnavailable: calls would fail now, and may succeed later. Runs on any thread, for seconds at
        the most."""
        ...


@contextmanager
def device_faults(where: str) -> Generator[None]:
    """Raises what torch raises for a device as an error of this package. where: what ran, as the caller is told.

    What torch raises for a bug stays as it is.
    """
    try:
        yield
    except RuntimeError as error:
        fault = device_fault(error, where)
        if fault is None:
            raise
        raise fault from error


def device_fault(error: Exception, where: str) -> BackendLost | DeviceOutOfMemory | None:
    """What an error of torch means, if it is the device's: DeviceOutOfMemory passes with the load; after BackendLost,
    every later call in this process fails."""
    if isinstance(error, torch.AcceleratorError):
        return BackendLost(f"the device failed in {where}: {_first_line(error)}")
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error)):
        return DeviceOutOfMemory(f"{where} ran out of device memory; try again")
    return None


def _first_line(error: Exception) -> str:
    """What follows is advice for programmers of kernels."""
    return next(iter(str(error).splitlines()), type(error).__name__)
