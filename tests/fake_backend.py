"""A small, real backend on the CPU: of either kind of batching, with memory figures that a test sets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from serve.backends.base import Build, DeviceMemory, device_faults
from serve.backends.checks import Checks
from serve.types import ComponentSpec


@dataclass
class FakeMemory:
    """Figures of a device that nothing is allocated on. releases: how often the kept memory was given back."""

    capacity: int = 2**40
    used: int = 0
    releases: int = 0

    def capacity_bytes(self) -> int:
        return self.capacity

    def used_bytes(self) -> int:
        return self.used

    def peak_bytes(self) -> int:
        return self.used

    def reset_peak(self) -> None:
        """The peak is what is used."""

    def release(self) -> None:
        self.releases += 1


@dataclass
class FakeBackend:
    """batch_invariant: each row of a call is computed by itself; otherwise together, where a row's last bits change
    with the size of the call. fits: rows that the device has memory for in one call of a component, by its name.
    """

    batch_invariant: bool = True
    fits: Mapping[str, int] = field(default_factory=dict[str, int])
    memory: DeviceMemory = field(default_factory=FakeMemory)
    name: str = "fake"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def load(self, spec: ComponentSpec, module: Build, weights: Path | None = None) -> "FakeComponent":
        return FakeComponent(spec, module(self.dtype), self)

    def close(self) -> None:
        """All goes with the process."""

    def check(self) -> None:
        """It is never away."""


class FakeComponent:
    def __init__(self, spec: ComponentSpec, module: torch.nn.Module, backend: FakeBackend) -> None:
        self.spec = spec
        self._module = module
        self._backend = backend
        self._checks = Checks(spec, backend.device)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = self._checks.inputs(inputs)["batch"]
        with device_faults(self.spec.name):
            if rows > self._backend.fits.get(self.spec.name, math.inf):
                raise torch.OutOfMemoryError(f"no room for {rows} rows")
        if not self._backend.batch_invariant:
            return self._answer(inputs)
        answers = [self._answer(_row(inputs, index)) for index in range(rows)]
        return {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}

    def _answer(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        (output,) = self.spec.outputs
        return {output.name: self._module(**inputs)}


def fixed_size(fits: Mapping[str, int] | None = None) -> FakeBackend:
    """Where rows of different calls come out equal only when the calls are of one size."""
    return FakeBackend(batch_invariant=False, fits=fits or {})


def _row(inputs: Mapping[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """A copy, because kernels may round differently by how a tensor lies in memory."""
    return {name: tensor[index : index + 1].clone() for name, tensor in inputs.items()}
