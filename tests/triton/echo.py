"""A model of Triton's Python backend for the tests: hands its inputs on as they are, after as long as `seconds` says.

Triton loads it as `model.py` of a model in a test's repository, in a process of its own.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # as build_engines/python_model.py

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402  # pyright: ignore[reportMissingImports]  # Triton's stub brings it


class TritonPythonModel:
    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    inputs = {tensor.name(): tensor for tensor in request.inputs()}
    seconds = float(np.from_dlpack(inputs["seconds"]).max())
    if seconds < 0:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{seconds:g} seconds cannot be waited"))
    time.sleep(seconds)
    outputs = [pb_utils.Tensor.from_dlpack(f"{name}_out", tensor.to_dlpack()) for name, tensor in inputs.items()]
    return pb_utils.InferenceResponse(outputs)
