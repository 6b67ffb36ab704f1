"""The reference executor: components run as torch modules, on the CPU or an accelerator.

On CUDA devices what was run once at some shapes is launched as a CUDA graph, with the same bytes as without.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from serve.backends import compiler
from serve.backends.base import Build, DeviceMemory, device_faults
from serve.backends.checks import DTYPES, Checks
from serve.backends.cuda_graphs import CudaGraphs, Run
from serve.backends.memory import memory_of
from serve.cpus import cpu_name, usable_cpus
from serve.errors import ConfigurationError
from serve.settings import ModelSettings
from serve.types import ComponentSpec

_ALIGNMENT_BYTES = 64


class TorchBackend:
    """device: as torch names it. precision: a floating type's name. threads: of the CPU kernels, for the process.
    compiled: modules run as `torch.compile` makes them, each set of shapes for itself. cuda_graphs: on CUDA devices.

    Raises ConfigurationError when the device is not there, or cannot be compiled for.
    """

    batch_invariant = False
    """Kernels are picked by shape, so a row's last bits change with the batch size (and with nothing else)."""

    def __init__(
        self, device: str, precision: str, threads: int, *, compiled: bool = False, cuda_graphs: bool = True
    ) -> None:
        self.device = open_device(device)
        self.dtype = DTYPES[precision]
        self.memory: DeviceMemory = memory_of(self.device)
        self._compiled, self._cuda_graphs = compiled, cuda_graphs and self.device.type == "cuda"
        ways = [way for way, taken in (("compiled", compiled), ("CUDA graphs", self._cuda_graphs)) if taken]
        self.name = ", ".join(["torch", *ways, _device_name(self.device, threads)])
        torch.set_num_threads(threads)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        if compiled:
            compiler.prepare(self.device)

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        threads = model.threads or usable_cpus()
        return cls(model.device, model.precision, threads, compiled=model.compile, cuda_graphs=model.cuda_graphs)

    def close(self) -> None:
        """All goes with the process."""

    def check(self) -> None:
        """A fault of the device shows in a call."""

    def load(self, spec: ComponentSpec, module: Build, weights: Path | None = None) -> "TorchComponent":
        """Build the module and move it to the device.

        Convolutions run channels-last: in float32 on a CPU they are far slower otherwise.
        """
        with device_faults(spec.name):
            built = module(self.dtype).eval().requires_grad_(False)
            built.to(device=self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            _align(built)
        run = _as_run(compiler.compiled(built) if self._compiled else built)
        if self._cuda_graphs:
            run = CudaGraphs(spec.name, run, self.device)
        return TorchComponent(spec, run, self.device)


class TorchComponent:
    """run: what computes the outputs, in the order of the spec; they may change with the next run."""

    def __init__(self, spec: ComponentSpec, run: Run, device: torch.device) -> None:
        self.spec = spec
        self._run = run
        self._checks = Checks(spec, device)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lengths = self._checks.inputs(inputs)
        with device_faults(self.spec.name), torch.inference_mode():
            answers = self._run(inputs)
        # Inference tensors may not be changed later, and may be views of larger ones: the caller gets its own.
        outputs = {spec.name: output.clone() for spec, output in zip(self.spec.outputs, answers, strict=True)}
        self._checks.outputs(outputs, lengths)
        return outputs


def _as_run(module: Callable[..., Tensor | tuple[Tensor, ...]]) -> Run:
    def run(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        answer = module(**inputs)
        return answer if isinstance(answer, tuple) else (answer,)

    return run


def open_device(name: str) -> torch.device:
    """The device with its index, once a tensor could be put there."""
    try:
        return torch.empty(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"device {name!r} cannot be used on this machine: {reason}") from None


def _align(module: nn.Module) -> None:
    """Weights mapped from a file lie at any address, and CPU kernels round differently by alignment."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT_BYTES:
            tensor.data = tensor.data.clone()


def _device_name(device: torch.device, threads: int) -> str:
    """Of the chip, as its maker calls it; of a CPU also the threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {threads} threads" if device.type == "cpu" else str(device)
