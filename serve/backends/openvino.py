"""Components on the CPU by OpenVINO, over the ONNX graphs that `retouch build-engines` writes.

The precision is that of the arithmetic inside; tensors are float32 at the borders of a component. Where a CPU lacks
instructions for a precision, OpenVINO computes in float32.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import openvino
import torch
from torch import Tensor

from serve.backends.base import Build, DeviceMemory
from serve.backends.checks import DTYPES, Checks
from serve.backends.manifest import Engine
from serve.backends.memory import memory_of
from serve.cpus import cpu_name, usable_cpus
from serve.errors import ConfigurationError, DeviceOutOfMemory
from serve.settings import ModelSettings
from serve.types import ComponentSpec

BACKEND = "openvino"
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_NO_MEMORY = ("bad_alloc", "bad allocation", "could not create a memory object")


class OpenVinoBackend:
    """threads: of the CPU kernels, for each component. A row's bytes are the same in every batch, so none is filled up.

    Raises ConfigurationError when the device is no CPU.
    """

    batch_invariant = True
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, repository: Path, model: str, precision: str, threads: int) -> None:
        self._repository, self._model, self._precision, self._threads = repository, model, precision, threads
        self.memory: DeviceMemory = memory_of(self.device)
        version = openvino.get_version().partition("-")[0]
        self.name = f"openvino {version} {precision}, {cpu_name()}, {threads} threads"
        torch.set_num_threads(threads)

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        if model.device != "cpu":
            raise ConfigurationError(f"model {model.id}: openvino runs on cpu, not on {model.device!r}")
        return cls(model.model_repository, model.id, model.precision, model.threads or usable_cpus())

    def close(self) -> None:
        """All goes with the process."""

    def check(self) -> None:
        """What runs in this process is there."""

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> "OpenVinoComponent":
        """module: is not called. Raises ConfigurationError: the engine is missing, stale or broken."""
        engine = Engine(self._repository, self._model, spec.name)
        engine.checked(BACKEND, self._precision, spec, weights)
        try:
            return opened(engine.file(BACKEND), spec, self._precision, self._threads)
        except RuntimeError as error:
            raise engine.broken(BACKEND, self._precision, error) from error


class OpenVinoComponent:
    """One compiled graph. Inputs are read where torch has them; outputs are copied out of its buffers."""

    def __init__(self, spec: ComponentSpec, model: openvino.CompiledModel) -> None:
        self.spec = spec
        self._request = model.create_infer_request()
        self._checks = Checks(spec, OpenVinoBackend.device)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lengths = self._checks.inputs(inputs)
        given = {name: _shared(tensor.contiguous()) for name, tensor in inputs.items()}
        try:
            self._request.infer(given, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            if any(sign in str(error) for sign in _NO_MEMORY):
                raise DeviceOutOfMemory(f"{self.spec.name} ran out of memory; try again") from error
            raise
        outputs = {
            tensor.name: _copied(self._request.get_output_tensor(place), DTYPES[tensor.dtype])
            for place, tensor in enumerate(self.spec.outputs)
        }
        self._checks.outputs(outputs, lengths)
        return outputs


def _shared(tensor: Tensor) -> openvino.Tensor:
    """numpy has no bfloat16, so its bits go as whole numbers."""
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.uint16).numpy()
        return openvino.Tensor(bits, list(tensor.shape), openvino.Type.bf16)
    return openvino.Tensor(tensor.numpy(), shared_memory=True)


def _copied(tensor: openvino.Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.bfloat16:
        bits = np.frombuffer(tensor.data.tobytes(), np.uint16).reshape(tuple(tensor.shape))
        return torch.from_numpy(bits.copy()).view(dtype)
    return torch.from_numpy(np.array(tensor.data)).to(dtype)


def opened(path: Path, spec: ComponentSpec, precision: str, threads: int) -> OpenVinoComponent:
    """A graph, as it is served: one call at a time, on all threads. Raises RuntimeError."""
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    return OpenVinoComponent(spec, core.compile_model(core.read_model(str(path)), "CPU", options))
