"""An executor that computes nothing: calls take the time of a table, and answer small functions of their inputs.

What remains of a served edit is everything but the neural networks, so that the scheduling and the serving of many
devices' load can be measured on a small machine, and a change of either be tried against the timing of a device that
is not there. It needs a checkpoint's configurations and tokenizers, and no weights.

An answer depends on all inputs of its own row and on nothing else, bit for bit at every batch size and place: a row
that went the wrong way shows in the picture. Pictures are stripes; as PNG they are far smaller than photographs.
"""

import math
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from serve.backends.base import Build, DeviceMemory
from serve.backends.checks import DTYPES, Checks, shape_of
from serve.backends.timing_table import TimingTable, load_table
from serve.errors import ConfigurationError, DeviceOutOfMemory
from serve.settings import ModelSettings, SimulatedSettings
from serve.types import ComponentSpec

SAMPLES = 1024
"""Elements of each input's row that are read, evenly spread: all of a prompt's ids, some of a picture's pixels."""
NUMBERS = 64
"""Different numbers in an answer's row, repeated over it."""

_BIT_PATTERNS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LOWER_HALF = 2**32 - 1
_MANTISSA_BITS = 24
"""Integers of so many bits, signs included, are exact in float32."""


class SimulatedBackend:
    """It plays one device, on which calls run one after the other, as on one stream.

    Raises ConfigurationError: the table cannot be had, or a real device was asked for.
    """

    batch_invariant = True
    device = torch.device("cpu")

    def __init__(self, settings: SimulatedSettings, precision: str) -> None:
        self._table = load_table(settings.timings)
        self._speed = settings.speed
        self._device = SimulatedDevice(settings.memory_bytes, self._table.memory.weights_bytes)
        self.memory: DeviceMemory = self._device
        self.dtype = DTYPES[precision]
        self.name = f"simulated {settings.timings} x{settings.speed:g}, {settings.memory_bytes / 1e9:g} GB"

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        """threads: of what a family computes beside its components, by default one.

        It is too little to share, and threads that wait for each other are late on a busy machine.
        """
        if model.device != "cpu":
            raise ConfigurationError(
                f"model {model.id}: device {model.device!r} cannot be simulated; the backend takes cpu"
            )
        torch.set_num_threads(model.threads or 1)
        return cls(model.simulated, model.precision)

    def load(self, spec: ComponentSpec, module: Build, weights: Path | None = None) -> "SimulatedComponent":
        """module: is not called, and weights not read. Raises ConfigurationError where the table has no timings of the
        component."""
        if not self._table.knows(spec.name):
            raise ConfigurationError(f"the timings of {self.name} lack the component {spec.name}, and have no default")
        with self._device.call(spec.name, 0):  # room for the weights
            return SimulatedComponent(spec, self._device, self._table, self._speed)

    def close(self) -> None:
        """All goes with the process."""

    def check(self) -> None:
        """Calls never fail for want of the device."""


class SimulatedComponent:
    """A component whose calls take time and memory by a table. speed: divides the time."""

    def __init__(self, spec: ComponentSpec, device: "SimulatedDevice", table: TimingTable, speed: float) -> None:
        self.spec = spec
        self._device = device
        self._table = table
        self._speed = speed
        self._checks = Checks(spec, SimulatedBackend.device)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raises DeviceOutOfMemory, at once, when weights and rows need more than the device has."""
        lengths = self._checks.inputs(inputs)
        batch, tokens = lengths["batch"], self._tokens(lengths)
        seconds = self._table.seconds(self.spec.name, batch, tokens) / self._speed
        with self._device.call(self.spec.name, batch * self._table.bytes_per_row(self.spec.name, tokens)):
            deadline_s = time.perf_counter() + seconds
            digests = row_digests([inputs[spec.name] for spec in self.spec.inputs])
            outputs = {
                spec.name: filled(digests, shape_of(spec, lengths), DTYPES[spec.dtype]) for spec in self.spec.outputs
            }
            if seconds > 0:
                _sleep_until(deadline_s)
        return outputs

    def _tokens(self, lengths: Mapping[str, int]) -> int:
        """The product of the axes of the first output, which is what the call draws, without the batch's."""
        axes = self.spec.outputs[0].shape[1:]
        return math.prod(lengths[axis] for axis in axes if isinstance(axis, str))


class SimulatedDevice:
    """The memory of the device, all its own, and its one call at a time. Tensors between calls take nothing."""

    def __init__(self, capacity_bytes: int, weights_bytes: int) -> None:
        self._turn = threading.Lock()
        self._capacity_bytes = capacity_bytes
        self._weights_bytes = weights_bytes
        self._used_bytes = self._peak_bytes = weights_bytes

    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    def used_bytes(self) -> int:
        return self._used_bytes

    def peak_bytes(self) -> int:
        return self._peak_bytes

    def reset_peak(self) -> None:
        self._peak_bytes = self._used_bytes

    def release(self) -> None:
        """Nothing is kept for reuse."""

    @contextmanager
    def call(self, where: str, row_bytes: int) -> Generator[None]:
        """The device's turn for one call. row_bytes: of all its rows. where: what runs, as the caller is told.

        Raises DeviceOutOfMemory.
        """
        with self._turn:
            needed_bytes = self._weights_bytes + row_bytes
            if needed_bytes > self._capacity_bytes:
                raise DeviceOutOfMemory(f"{where} ran out of device memory; try again")
            self._used_bytes = needed_bytes
            self._peak_bytes = max(self._peak_bytes, needed_bytes)
            try:
                yield
            finally:
                self._used_bytes = self._weights_bytes


def row_digests(tensors: list[Tensor]) -> Tensor:
    """(B,) int64: one number for each row of all the tensors, each (B, ...).

    Of bits, in integers modulo 2**64: sums of floating numbers would change with the order that a batch size chooses.
    """
    digests = torch.zeros(tensors[0].shape[0], dtype=torch.int64)
    for index, tensor in enumerate(tensors):
        sampled = tensor[(slice(None), *_sampled_places(tensor.shape[1:]))].reshape(len(digests), -1)
        bits = sampled.view(_BIT_PATTERNS[sampled.element_size()]).to(torch.int64)
        digests += (bits * _odd_numbers(index, bits.shape[1])).sum(dim=1)
    return digests


def filled(digests: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of that shape, whose rows repeat numbers of their digests: floating ones in [-1, 1], others whole."""
    row_length = math.prod(shape[1:])
    numbers = math.gcd(row_length, NUMBERS)
    # A multiplication carries bits upwards only: the upper ones, which know of all others, are brought down before it.
    mixed = ((digests ^ digests >> 32 & _LOWER_HALF)[:, None] * _odd_numbers(-1, numbers)) >> (64 - _MANTISSA_BITS)
    if dtype.is_floating_point:
        values = (mixed.to(torch.float32) / 2 ** (_MANTISSA_BITS - 1)).to(dtype)
    else:
        values = (mixed > 0) if dtype == torch.bool else mixed
    return values[:, None, :].expand(-1, row_length // numbers, -1).reshape(shape).clone()


@lru_cache(maxsize=256)
def _sampled_places(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Indices into each dimension of a row, spread over it at an odd stride: an even one would meet few columns."""
    size = math.prod(shape)
    stride = size // SAMPLES | 1 if size > SAMPLES else 1
    return torch.unravel_index(torch.arange(0, size, stride), shape) if shape else ()


@lru_cache(maxsize=256)
def _odd_numbers(seed: int, count: int) -> Tensor:
    """(count,) int64 of random bits. Odd ones have an inverse modulo 2**64, so a product loses nothing."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1


def _sleep_until(deadline_s: float) -> None:
    """On the clock of `time.perf_counter`. A sleep lets other threads run, and may end early on some systems."""
    while (remaining_s := deadline_s - time.perf_counter()) > 0:
        time.sleep(remaining_s)
