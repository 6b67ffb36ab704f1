"""The reference executor: components run eagerly as torch modules, on the CPU or an accelerator."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from serve.backends.base import device_faults
from serve.errors import ConfigurationError
from serve.types import ComponentSpec, TensorSpec

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "bool": torch.bool,
}
_ALIGNMENT_BYTES = 64


class TorchBackend:
    """device: as torch names it. precision: a floating type's name. threads: of the CPU kernels, for the process.

    Raises ConfigurationError when the device is not there.
    """

    batch_invariant = False
    """Kernels are picked by shape, so a row's last bits change with the batch size (and with nothing else)."""

    def __init__(self, device: str, precision: str, threads: int) -> None:
        self.device = _open_device(device)
        self.dtype = _DTYPES[precision]
        torch.set_num_threads(threads)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

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
        self._device = device
        self._axes = {axis.name: axis for axis in spec.axes}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._check_inputs(inputs)
        with device_faults(self.spec.name), torch.inference_mode():
            answer: Tensor | tuple[Tensor, ...] = self._module(**inputs)
        outputs = answer if isinstance(answer, tuple) else (answer,)
        # Inference tensors may not be changed later, and may be views of larger ones: the caller gets its own.
        return {spec.name: output.clone() for spec, output in zip(self.spec.outputs, outputs, strict=True)}

    def _check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        expected = {tensor.name for tensor in self.spec.inputs}
        if set(inputs) != expected:
            raise ValueError(f"{self.spec.name} takes {_listed(expected)}; found {_listed(inputs)}")
        lengths: dict[str, int] = {}
        for tensor in self.spec.inputs:
            self._check_type(tensor, inputs[tensor.name])
            self._check_shape(tensor, tuple(inputs[tensor.name].shape), lengths)

    def _check_type(self, spec: TensorSpec, tensor: Tensor) -> None:
        if tensor.dtype != _DTYPES[spec.dtype]:
            found = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{self.spec.name}: tensor {spec.name} must be {spec.dtype}; found {found}")
        if tensor.device != self._device:
            raise ValueError(f"{self.spec.name}: tensor {spec.name} must be on {self._device}; found {tensor.device}")

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], lengths: dict[str, int]) -> None:
        """lengths: of the axes seen so far in this call, which later tensors must repeat; filled here."""
        where = f"{self.spec.name}: tensor {spec.name}"
        if len(shape) != len(spec.shape):
            raise ValueError(f"{where} must have shape {_shown(spec.shape)}; found {_shown(shape)}")
        for expected, found in zip(spec.shape, shape, strict=True):
            if isinstance(expected, int):
                if found != expected:
                    raise ValueError(f"{where} must have shape {_shown(spec.shape)}; found {_shown(shape)}")
                continue
            axis = self._axes[expected]
            if not axis.min <= found <= axis.max:
                raise ValueError(f"{where}: axis {axis.name} must be {axis.min} to {axis.max}; found {found}")
            if lengths.setdefault(expected, found) != found:
                raise ValueError(
                    f"{where}: axis {axis.name} must be {lengths[expected]} as in the tensors before; found {found}"
                )


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


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(str(axis) for axis in shape)})"
