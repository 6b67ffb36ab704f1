"""A component in the words of Triton Inference Server: types, shapes, and when it may join requests to a batch."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tritonclient.grpc import model_config_pb2, service_pb2

from serve.types import ComponentSpec, DType, TensorSpec

calls: Any = service_pb2
configs: Any = model_config_pb2
"""The protocol's messages. Their classes are made when they are imported, so that no type checker knows them."""
DATATYPES: dict[DType, str] = {
    "float32": "FP32",
    "float16": "FP16",
    "bfloat16": "BF16",
    "int64": "INT64",
    "bool": "BOOL",
}
"""As messages name them; configurations put `TYPE_` before."""
SharedKind = Literal["System", "Cuda"]
"""Of shared memory, as the protocol's messages begin."""
RUNTIME = "runtime"
"""Parameter of a configuration that names what computes, where Triton's backend does not tell: behind `python`."""
SHAPES = "shapes"
"""Parameter of a configuration that tells callers which shapes a plan was built for, as JSON."""
INVARIANT_RUNTIMES = ("onnxruntime", "openvino")
"""Those that give a row the same bytes at every batch size, on a CPU, where no tensor is float16."""
DENOISER = "denoiser"
"""What every family calls the component that runs whole batches of steps."""


def dims(tensor: TensorSpec) -> list[int]:
    """Of one row, -1 where the length varies. Triton knows no rows without dimensions: one number a row is [1]."""
    return [-1 if isinstance(axis, str) else axis for axis in tensor.shape[1:]] or [1]


def sent_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a tensor of that shape in a message, as `dims` declares it."""
    return (*shape, 1) if len(shape) == 1 else tuple(shape)


def is_invariant(runtime: str, datatypes: Iterable[str]) -> bool:
    """Whether a row has the same bytes at every batch size on a CPU. datatypes: of all tensors, as in `DATATYPES`."""
    return runtime in INVARIANT_RUNTIMES and DATATYPES["float16"] not in datatypes


def may_be_joined(spec: ComponentSpec, runtime: str) -> bool:
    """Whether Triton may run requests of different callers as one batch.

    Never those for the denoiser: the engine has made batches of them, and what rows share (FLUX's rotary embedding) is
    read from the first row, which would be another caller's. Nor where the bytes of a row depend on the size of the
    batch, as those of a TensorRT plan do, so that a seed would no longer mean one picture.
    """
    datatypes = [DATATYPES[tensor.dtype] for tensor in (*spec.inputs, *spec.outputs)]
    return spec.name != DENOISER and is_invariant(runtime, datatypes)
