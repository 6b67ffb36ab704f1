"""`config.pbtxt`: what Triton Inference Server is told of a component, made from its declaration alone.

The server is to be started with `--disable-auto-complete-config`: it would otherwise add dynamic batching where a
configuration leaves it out. https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format

from build_engines.inputs import complete
from serve.backends.manifest import ENGINE_FILES, VERSION
from serve.backends.shapes import Shapes
from serve.backends.triton_words import DATATYPES, DENOISER, RUNTIME, SHAPES, configs, dims, may_be_joined
from serve.types import ComponentSpec, TensorSpec

Platform = Literal["tensorrt_plan", "onnxruntime", "openvino", "python"]

PYTHON_MODEL = Path(__file__).with_name("python_model.py")
"""To be copied as `model.py` beside `model.onnx`, for the platform `python`."""

_RUNTIMES: dict[Platform, str] = {
    "tensorrt_plan": "tensorrt",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "python": "onnxruntime",
}
"""What computes; behind `python`, build_engines/python_model.py."""
_THREADS: dict[Platform, str] = {
    "onnxruntime": "intra_op_thread_count",
    "openvino": "INFERENCE_NUM_THREADS",
    "python": "threads",
}
"""Each backend's name for how many threads compute."""
_WIDTH = 118
_BLOCK = re.compile(r"^(?P<indent> *)(?P<name>\w+) \{\n(?P<body>(?:(?P=indent)  \S.*\n)*)(?P=indent)\}\n", re.MULTILINE)
"""One without blocks over several lines in it."""

NO_SHAPES = Shapes()

ModelConfig = configs.ModelConfig


def config_text(
    name: str, spec: ComponentSpec, platform: Platform, shapes: Shapes = NO_SHAPES, threads: int = 0
) -> str:
    """The text of the component's `config.pbtxt`.

    name: of the model in the repository (`triton_name`). shapes: that a plan was compiled for; without
    ranges it takes what is declared. threads: of a CPU backend; 0 leaves the number to it.
    """
    max_batch: int = shapes.rows or _axes(spec)["batch"].max
    sections = (
        _identity(name, platform, max_batch),
        _tensors(spec),
        _version(),
        _batching(spec, platform, max_batch),
        _instances(platform, shapes),
        _warmup(spec, platform, shapes),
        _parameters(platform, shapes, threads),
    )
    return "\n".join(_written(comment, config) for comment, config in sections if comment)


def _identity(name: str, platform: Platform, max_batch: int) -> tuple[str, Any]:
    config = ModelConfig(name=name, max_batch_size=max_batch)
    if platform == "tensorrt_plan":
        config.platform = platform
    else:
        config.backend = platform
    comment = (
        "Made from the component's declaration by build_engines/triton_config.py; `retouch build-engines` overwrites "
        "it. Start the server with --disable-auto-complete-config, or it batches what must not be."
    )
    if platform == "openvino":
        config.default_model_filename = ENGINE_FILES["openvino"]
        comment += (
            " OpenVINO computes in bfloat16 where the CPU has instructions for it; its Triton backend has no setting "
            "against that."
        )
    return comment, config


def _tensors(spec: ComponentSpec) -> tuple[str, Any]:
    config = ModelConfig(
        input=[_tensor(configs.ModelInput, tensor) for tensor in spec.inputs],
        output=[_tensor(configs.ModelOutput, tensor) for tensor in spec.outputs],
    )
    return "Of one row: the batch comes before. -1 varies from call to call.", config


def _tensor(message: Any, tensor: TensorSpec) -> Any:
    declared = message(name=tensor.name, data_type=_data_type(tensor), dims=dims(tensor))
    if len(tensor.shape) == 1:
        declared.reshape.SetInParent()  # one number a row travels as [1], and the graph takes it as []
    return declared


def _version() -> tuple[str, Any]:
    config = ModelConfig()
    config.version_policy.specific.versions.append(int(VERSION))
    return (
        "There is one version, which callers ask for; a folder that lies beside it by accident is not served.",
        config,
    )


def _batching(spec: ComponentSpec, platform: Platform, max_batch: int) -> tuple[str, Any]:
    config = ModelConfig()
    if may_be_joined(spec, _RUNTIMES[platform]) and platform != "python" and max_batch > 1:
        config.dynamic_batching.max_queue_delay_microseconds = 0
        return (
            "dynamic_batching: rows are independent and come out the same in every batch, so requests of several "
            "servers that wait anyway run together. None waits for others to come: the engine sends whole batches.",
            config,
        )
    return _no_batching(spec, platform, max_batch), config


def _no_batching(spec: ComponentSpec, platform: Platform, max_batch: int) -> str:
    if spec.name == DENOISER:
        return (
            "No dynamic_batching: the engine sends whole batches, and what the rows of one share is read from its "
            "first row; Triton would join rows of different requests."
        )
    if not may_be_joined(spec, _RUNTIMES[platform]):
        return (
            "No dynamic_batching: results depend on the size of the batch in their last bits, so a seed would mean "
            "different pictures."
        )
    return "No dynamic_batching: " + ("requests are of one row." if max_batch == 1 else "model.py runs one at a time.")


def _instances(platform: Platform, shapes: Shapes) -> tuple[str, Any]:
    config = ModelConfig()
    group = config.instance_group.add(count=1)
    if platform != "tensorrt_plan":
        group.kind = configs.ModelInstanceGroup.KIND_CPU
        return "One instance: its kernels use all threads, and a second one would take them from it.", config
    group.kind = configs.ModelInstanceGroup.KIND_GPU
    comment = "One instance a GPU: a second would hold its working memory again, and a call fills the GPU."
    profiles = len(shapes.static) + len(shapes.ranges)
    if profiles > 1:
        group.profile.extend(str(index) for index in range(profiles))
        comment += " The profiles of one shape each come first, then those that take every other shape."
    return comment, config


def _warmup(spec: ComponentSpec, platform: Platform, shapes: Shapes) -> tuple[str, Any]:
    config = ModelConfig()
    for index, lengths in enumerate(_warm_lengths(spec, platform, shapes)):
        warm = config.model_warmup.add(name=f"shape {index}", batch_size=lengths["batch"])
        for tensor in spec.inputs:
            warm.inputs[tensor.name].data_type = _data_type(tensor)
            warm.inputs[tensor.name].dims.extend(_row(tensor, lengths) or [1])
            warm.inputs[tensor.name].zero_data = True
    return (
        "The model is ready once it has run: what it loads and allocates at first is not waited for by an edit. Zeros "
        "are good ids, where random bytes are not.",
        config,
    )


def _warm_lengths(spec: ComponentSpec, platform: Platform, shapes: Shapes) -> Iterator[Mapping[str, int]]:
    """Each static profile of a plan, and the lowest of a range; else the smallest that the component takes."""
    if platform == "tensorrt_plan" and shapes.ranges:
        yield from (*shapes.static, shapes.ranges[0].low)
    else:
        yield smallest_lengths(spec)


def smallest_lengths(spec: ComponentSpec) -> dict[str, int]:
    """Of all axes; those that follow from others do so."""
    return complete(spec, {axis.name: axis.min for axis in spec.axes})


def _parameters(platform: Platform, shapes: Shapes, threads: int) -> tuple[str, Any]:
    config = ModelConfig()
    if shapes.ranges:
        told = shapes.model_dump_json(exclude={"static"})
        config.parameters[SHAPES].string_value = told
    if threads and platform in _THREADS:
        config.parameters[_THREADS[platform]].string_value = str(threads)
    if platform == "python":
        config.parameters[RUNTIME].string_value = _RUNTIMES[platform]
    return "What the backend is told, and callers where it does not tell." if config.parameters else "", config


def _written(comment: str, config: Any) -> str:
    lines = textwrap.wrap(comment, _WIDTH)
    text = text_format.MessageToString(config, use_short_repeated_primitives=True)
    return "".join(f"# {line}\n" for line in lines) + _compact(text)


def _compact(text: str) -> str:
    """Blocks that fit into a line, as one; from the innermost outwards."""
    while (shorter := _BLOCK.sub(_joined, text)) != text:
        text = shorter
    return text


def _joined(block: re.Match[str]) -> str:
    line = " ".join([f"{block['indent']}{block['name']} {{", *block["body"].split(), "}"])
    return f"{line}\n" if len(line) <= _WIDTH else block[0]


def _row(tensor: TensorSpec, lengths: Mapping[str, int]) -> list[int]:
    return [lengths[axis] if isinstance(axis, str) else axis for axis in tensor.shape[1:]]


def _axes(spec: ComponentSpec) -> Mapping[str, Any]:
    return {axis.name: axis for axis in spec.axes}


def _data_type(tensor: TensorSpec) -> int:
    return configs.DataType.Value(f"TYPE_{DATATYPES[tensor.dtype]}")
