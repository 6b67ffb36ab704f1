"""The reference executor: components run eagerly as torch modules, on the CPU or an accelerator."""

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from serve.backends.base import DeviceMemory, device_faults
from serve.backends.checks import DTYPES, Checks
from serve.backends.memory import memory_of
from serve.cpus import usable_cpus
from serve.errors import ConfigurationError
from serve.settings import ModelSettings
from serve.types import ComponentSpec

_ALIGNMENT_BYTES = 64
_CPUINFO = Path("/proc/cpuinfo")


class TorchBackend:
    """device: as torch names it. precision: a floating type's name. threads: of the CPU kernels, for the process.

    Raises ConfigurationError when the device is not there.
    """

    batch_invariant = False
    """Kernels are picked by shape, so a row's last bits change with the batch size (and with nothing else)."""

    def __init__(self, device: str, precision: str, threads: int) -> None:
        self.device = _open_device(device)
        self.dtype = DTYPES[precision]
        self.memory: DeviceMemory = memory_of(self.device)
        self.name = f"torch, {_device_name(self.device, threads)}"
        torch.set_num_threads(threads)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        return cls(model.device, model.precision, model.threads or usable_cpus())

    def load(self, spec: ComponentSpec, module: Callable[[], nn.Module]) -> "TorchComponent":
        """Build the module, which comes in the precision that it runs at, and move it to the device.

        Convolutions run channels-last: in float32 on a CPU they are far slower otherwise.
        """
        with device_faults(spec.name):
            built = module().eval().requires_grad_(False)
            built.to(device=self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            _align(built)
        return TorchComponent(spec, built, self.device)


class TorchComponent:
    """A module in eval mode that runs exactly what its spec declares."""

    def __init__(self, spec: ComponentSpec, module: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self._module = module
        self._checks = Checks(spec, device)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lengths = self._checks.inputs(inputs)
        with device_faults(self.spec.name), torch.inference_mode():
            answer: Tensor | tuple[Tensor, ...] = self._module(**inputs)
        answers = answer if isinstance(answer, tuple) else (answer,)
        # Inference tensors may not be changed later, and may be views of larger ones: the caller gets its own.
        outputs = {spec.name: output.clone() for spec, output in zip(self.spec.outputs, answers, strict=True)}
        self._checks.outputs(outputs, lengths)
        return outputs


def _open_device(name: str) -> torch.device:
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
    return f"{_cpu_name()}, {threads} threads" if device.type == "cpu" else str(device)


def _cpu_name() -> str:
    """Linux tells it in a line `model name : ...`, though not for every architecture."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
