"""A Triton model of the Python backend: runs the `model.onnx` beside it with ONNX Runtime on the CPU.

`retouch build-engines` copies this file to `model.py` in a model's version folder, for servers that have no backend but
Python. It imports nothing of Retouch; numpy and onnxruntime must be found by Triton's Python stub, if need be by way of
PYTHONPATH.

The parameter `threads` of config.pbtxt is how many compute; without it, as many as there are cores. The session is made
as the server makes its own (serve/backends/onnxruntime.py), so that both give the same bytes.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Stubs that run Python isolated do not look at PYTHONPATH, where numpy and onnxruntime are found.
sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import onnxruntime  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402  # pyright: ignore[reportMissingImports]  # Triton's stub brings it

GRAPH = "model.onnx"
ALIGNMENT_BYTES = 64
"""Of tensors as ONNX Runtime and torch allocate them. Kernels round differently where it is less."""


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """args: of Triton; `model_config` is the configuration as JSON."""
        config = json.loads(args["model_config"])
        self._outputs = [output["name"] for output in config["output"]]
        self._truths = {tensor["name"] for tensor in config["input"] if tensor["data_type"] == "TYPE_BOOL"}
        threads = config.get("parameters", {}).get("threads", {}).get("string_value", "0")
        path = Path(__file__).with_name(GRAPH)
        try:
            self._session = _session(path, int(threads))
        except Exception as error:  # noqa: BLE001  # ONNX Runtime's have no class in common
            raise pb_utils.TritonModelException(f"{path} cannot be loaded: {_first_line(error)}") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One at a time: a request is a whole batch, and what its rows share is no other request's."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            arrays = {tensor.name(): self._array(tensor) for tensor in request.inputs()}
            answers = self._session.run(self._outputs, arrays)
        except Exception as error:  # noqa: BLE001  # ONNX Runtime's have no class in common
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(_first_line(error)))
        outputs = zip(self._outputs, answers, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(name, answer) for name, answer in outputs])

    def _array(self, tensor: Any) -> npt.NDArray[Any]:
        """By DLPack, without a copy: `as_numpy` of stubs that were built for numpy 1 is empty under numpy 2."""
        array = np.from_dlpack(tensor)
        return _aligned(array.view(np.bool_) if tensor.name() in self._truths else array)


def _aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, or a copy where it does not lie as it must."""
    if array.ctypes.data % ALIGNMENT_BYTES == 0:
        return array
    memory = np.empty(array.nbytes + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    cpu = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
    return onnxruntime.InferenceSession(str(path), options, providers=[cpu])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
