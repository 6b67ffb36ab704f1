"""Components as ONNX Runtime sessions on the CPU, over the ONNX graphs that `retouch build-engines` writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import onnxruntime
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

BACKEND = "onnxruntime"
_NO_MEMORY = ("Failed to allocate memory", "bad allocation", "std::bad_alloc")


class OnnxRuntimeBackend:
    """threads: of the CPU kernels, for each component. In float32 a row's bytes are the same in every batch, so none is
    filled up; in float16 those of a row alone may differ from those in company (ONNX Runtime 1.32).

    Raises ConfigurationError: the device or the precision is one that ONNX Runtime has no kernels for.
    """

    device = torch.device("cpu")

    def __init__(self, repository: Path, model: str, precision: str, threads: int) -> None:
        refuse_precision(precision)
        self._repository, self._model, self._precision, self._threads = repository, model, precision, threads
        self.dtype = DTYPES[precision]
        self.batch_invariant = precision == "float32"
        self.memory: DeviceMemory = memory_of(self.device)
        self.name = f"onnxruntime {onnxruntime.__version__}, {cpu_name()}, {threads} threads"
        torch.set_num_threads(threads)

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        if model.device != "cpu":
            raise ConfigurationError(f"model {model.id}: onnxruntime runs on cpu, not on {model.device!r}")
        return cls(model.model_repository, model.id, model.precision, model.threads or usable_cpus())

    def close(self) -> None:
        """All goes with the process."""

    def check(self) -> None:
        """What runs in this process is there."""

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> "OnnxRuntimeComponent":
        """module: is not called. Raises ConfigurationError: the engine is missing, stale or broken."""
        engine = Engine(self._repository, self._model, spec.name)
        engine.checked(BACKEND, self._precision, spec, weights)
        try:
            return opened(engine.file(BACKEND), spec, self._threads)
        except Exception as error:  # its errors have no class in common
            raise engine.broken(BACKEND, self._precision, error) from error


class OnnxRuntimeComponent:
    """One session. Inputs are read where torch has them, and outputs handed over without a copy."""

    def __init__(self, spec: ComponentSpec, session: onnxruntime.InferenceSession) -> None:
        self.spec = spec
        self._session = session
        self._checks = Checks(spec, OnnxRuntimeBackend.device)
        self._names = [tensor.name for tensor in spec.outputs]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lengths = self._checks.inputs(inputs)
        arrays = {name: tensor.contiguous().numpy() for name, tensor in inputs.items()}
        try:
            answers = self._session.run(self._names, arrays)
        except Exception as error:
            if any(sign in str(error) for sign in _NO_MEMORY):
                raise DeviceOutOfMemory(f"{self.spec.name} ran out of memory; try again") from error
            raise
        outputs = {name: torch.from_numpy(answer) for name, answer in zip(self._names, answers, strict=True)}
        self._checks.outputs(outputs, lengths)
        return outputs


def refuse_precision(precision: str) -> None:
    """Raises ConfigurationError for one that has no kernels."""
    if precision == "bfloat16":
        raise ConfigurationError(
            "ONNX Runtime has no bfloat16 kernels for CPUs; choose float32, or the backend openvino"
        )


def opened(path: Path, spec: ComponentSpec, threads: int) -> OnnxRuntimeComponent:
    """Raises whatever ONNX Runtime does."""
    return OnnxRuntimeComponent(spec, session(path, threads))


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Of a graph, as it is served. Its options:

    One call runs at a time, so all threads work inside an operator and none beside it. They do not spin while they wait
    for work: the codec and the ingress share the CPUs. The memory arena grows by what is asked for, not to the next
    power of two, since a replica is admitted by what its process holds.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    cpu = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
    return onnxruntime.InferenceSession(str(path), options, providers=[cpu])
