"""A model taken apart: its components' declarations and torch modules, or the components as an executor loads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from serve.backends import load_backend
from serve.backends.base import Backend, Build, Component, DeviceMemory
from serve.backends.checks import DTYPES
from serve.backends.memory import memory_of
from serve.families import load_family
from serve.families.base import Family
from serve.settings import ModelSettings
from serve.types import ComponentSpec


@dataclass(frozen=True, slots=True)
class Part:
    """module: builds the torch module, in the precision of the spec. weights: the folder that it is made from."""

    spec: ComponentSpec
    module: Callable[[], nn.Module]
    weights: Path


def parts_of(model: ModelSettings, precision: str) -> tuple[Family, dict[str, Part]]:
    """precision: of the tensors between the components. Raises ConfigurationError: there is no such model."""
    collector = _Collector(precision)
    family = load_family(model, collector)
    return family, collector.parts


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its executor, and its components by name."""

    family: Family
    backend: Backend
    components: Mapping[str, Component]


def loaded(model: ModelSettings) -> Loaded:
    """As the server loads it. Raises ConfigurationError."""
    backend = _Watched(load_backend(model))
    return Loaded(load_family(model, backend), backend.backend, backend.components)


class _Watched:
    """An executor that remembers what it has loaded."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.components: dict[str, Component] = {}
        self.name, self.device, self.dtype = backend.name, backend.device, backend.dtype
        self.batch_invariant, self.memory = backend.batch_invariant, backend.memory

    def close(self) -> None:
        self.backend.close()

    def check(self) -> None:
        self.backend.check()

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> Component:
        self.components[spec.name] = self.backend.load(spec, module, weights)
        return self.components[spec.name]


class _Collector:
    """A backend that loads nothing and remembers what it was asked for."""

    name = "none"
    batch_invariant = True
    device = torch.device("cpu")

    def __init__(self, precision: str) -> None:
        self.dtype = DTYPES[precision]
        self.memory: DeviceMemory = memory_of(self.device)
        self.parts: dict[str, Part] = {}

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> "_Unloaded":
        self.parts[spec.name] = Part(spec, partial(module, self.dtype), weights)
        return _Unloaded(spec)

    def close(self) -> None:
        """There is nothing to let go of."""

    def check(self) -> None:
        """There is nothing that could be away."""


@dataclass
class _Unloaded:
    spec: ComponentSpec

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise RuntimeError(f"{self.spec.name} was not loaded")
