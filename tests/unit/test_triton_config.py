"""Triton's configurations: made from declarations, well formed, and those that come with the project up to date."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from google.protobuf import text_format

from build_engines import repository
from build_engines.triton_config import NO_SHAPES, Platform, config_text, smallest_lengths
from serve.backends.shapes import Range, Shapes
from serve.backends.triton_words import SHAPES as SHAPES_TOLD
from serve.backends.triton_words import configs
from serve.types import Axis, ComponentSpec, DType, TensorSpec

SPEC = ComponentSpec(
    name="mixer",
    inputs=(
        TensorSpec("latents", "bfloat16", ("batch", 16, "height", "width")),
        TensorSpec("timestep", "float16", ("batch",)),
        TensorSpec("ids", "int64", ("batch", 77)),
        TensorSpec("mask", "bool", ("batch", "width")),
    ),
    outputs=(TensorSpec("pixels", "float32", ("batch", 3, "side")),),
    axes=(
        Axis("batch", 1, 1, 8),
        Axis("height", 2, 16, 64),
        Axis("width", 4, 16, 64),
        Axis("side", 1, 32, 128, of=("height", "width"), plus=1),
    ),
)
SHAPES = Shapes(
    static=({"batch": 4, "height": 16, "width": 16, "side": 33}, {"batch": 1, "height": 8, "width": 8, "side": 17}),
    ranges=(
        Range(
            low={"batch": 1, "height": 2, "width": 4, "side": 7},
            high={"batch": 4, "height": 16, "width": 8, "side": 25},
        ),
        Range(
            low={"batch": 1, "height": 2, "width": 4, "side": 7},
            high={"batch": 4, "height": 8, "width": 16, "side": 25},
        ),
    ),
)


@pytest.mark.parametrize("platform", get_args(Platform))
def test_every_tensor_is_declared_without_its_batch(platform: Platform):
    config = parsed(platform)

    assert config.name == "m.mixer"
    assert config.max_batch_size == 8
    assert [(tensor.name, types(tensor), list(tensor.dims)) for tensor in config.input] == [
        ("latents", "TYPE_BF16", [16, -1, -1]),
        ("timestep", "TYPE_FP16", [1]),
        ("ids", "TYPE_INT64", [77]),
        ("mask", "TYPE_BOOL", [-1]),
    ]
    assert [(tensor.name, types(tensor), list(tensor.dims)) for tensor in config.output] == [
        ("pixels", "TYPE_FP32", [3, -1])
    ]


def test_one_number_a_row_is_a_scalar_to_the_graph():
    reshaped = [tensor.name for tensor in parsed("onnxruntime").input if tensor.HasField("reshape")]

    assert reshaped == ["timestep"]
    assert not parsed("onnxruntime").input[1].reshape.shape


@pytest.mark.parametrize(
    ("platform", "fields"),
    [
        ("tensorrt_plan", ("tensorrt_plan", "", "")),
        ("onnxruntime", ("", "onnxruntime", "")),
        ("openvino", ("", "openvino", "model.onnx")),
        ("python", ("", "python", "")),
    ],
)
def test_a_platform_is_named_as_triton_does(platform: Platform, fields: tuple[str, str, str]):
    config = parsed(platform)

    assert (config.platform, config.backend, config.default_model_filename) == fields


@pytest.mark.parametrize(
    ("platform", "component", "precision", "joined"),
    [
        ("onnxruntime", "mixer", "float32", True),
        ("onnxruntime", "mixer", "float16", False),
        ("openvino", "mixer", "float32", True),
        ("onnxruntime", "denoiser", "float32", False),
        ("openvino", "denoiser", "float32", False),
        ("tensorrt_plan", "mixer", "float32", False),
        ("tensorrt_plan", "denoiser", "float32", False),
        ("python", "mixer", "float32", False),
    ],
)
def test_triton_joins_only_rows_that_come_out_the_same(
    platform: Platform, component: str, precision: DType, joined: bool
):
    inputs = tuple(replace(tensor, dtype=precision) for tensor in SPEC.inputs)
    text = config_text("m.mixer", replace(SPEC, name=component, inputs=inputs), platform, SHAPES)

    assert text_format.Parse(text, configs.ModelConfig()).HasField("dynamic_batching") == joined
    assert ("No dynamic_batching: " in text) == (not joined)


def test_a_plan_takes_no_more_rows_than_it_was_built_for():
    assert parsed("tensorrt_plan", shapes=SHAPES).max_batch_size == 4


def test_a_plan_has_an_instance_with_all_its_profiles_on_each_gpu():
    (group,) = parsed("tensorrt_plan", shapes=SHAPES).instance_group
    (dynamic,) = parsed("tensorrt_plan", shapes=NO_SHAPES).instance_group

    assert group.kind == dynamic.kind == configs.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == ["0", "1", "2", "3"]
    assert not dynamic.profile


@pytest.mark.parametrize("platform", ["onnxruntime", "openvino", "python"])
def test_one_instance_runs_on_the_cpu(platform: Platform):
    (group,) = parsed(platform).instance_group

    assert (group.kind, group.count) == (configs.ModelInstanceGroup.KIND_CPU, 1)


def test_a_model_warms_up_at_the_smallest_shapes():
    (warm,) = parsed("onnxruntime").model_warmup

    assert warm.batch_size == 1
    assert {name: list(tensor.dims) for name, tensor in warm.inputs.items()} == {
        "latents": [16, 2, 4],
        "timestep": [1],
        "ids": [77],
        "mask": [4],
    }
    assert all(tensor.zero_data for tensor in warm.inputs.values())
    assert smallest_lengths(SPEC)["side"] == 7


def test_a_plan_warms_up_every_static_profile_and_a_range():
    warms = parsed("tensorrt_plan", shapes=SHAPES).model_warmup

    assert [(warm.batch_size, list(warm.inputs["latents"].dims)) for warm in warms] == [
        (4, [16, 16, 16]),
        (1, [16, 8, 8]),
        (1, [16, 2, 4]),
    ]


def test_callers_are_told_which_shapes_a_plan_takes():
    told = parsed("tensorrt_plan", shapes=SHAPES).parameters[SHAPES_TOLD].string_value

    assert Shapes.model_validate_json(told) == SHAPES.model_copy(update={"static": ()})
    assert SHAPES_TOLD not in parsed("tensorrt_plan").parameters


@pytest.mark.parametrize(
    ("platform", "name"),
    [("onnxruntime", "intra_op_thread_count"), ("openvino", "INFERENCE_NUM_THREADS"), ("python", "threads")],
)
def test_threads_are_told_as_each_backend_calls_them(platform: Platform, name: str):
    text = config_text("m.mixer", SPEC, platform, threads=3)

    assert text_format.Parse(text, configs.ModelConfig()).parameters[name].string_value == "3"
    assert name not in parsed(platform).parameters


def test_only_version_one_is_served():
    assert list(parsed("onnxruntime").version_policy.specific.versions) == [1]


def test_the_configurations_that_come_with_the_project_are_what_is_declared():
    assert repository.stale() == []


def test_a_stale_configuration_is_named_with_its_line(tmp_path: Path):
    repository.write(tmp_path)
    changed = tmp_path / "retouch-tiny.denoiser" / "config.pbtxt"
    changed.write_text(changed.read_text().replace("max_batch_size: 64", "max_batch_size: 5"))
    (tmp_path / "flux-kontext.vae_decoder" / "config.pbtxt").unlink()

    wrong, missing = sorted(repository.stale(tmp_path), reverse=True)

    line = changed.read_text().splitlines().index("max_batch_size: 5") + 1
    assert wrong == f"{changed}:{line} is 'max_batch_size: 5', declared is 'max_batch_size: 64'"
    assert missing == f"{tmp_path / 'flux-kontext.vae_decoder' / 'config.pbtxt'} is missing"


def parsed(platform: Platform, shapes: Shapes = NO_SHAPES) -> Any:
    text = config_text("m.mixer", SPEC, platform, shapes)
    return text_format.Parse(text, configs.ModelConfig())


def types(tensor: Any) -> str:
    return configs.DataType.Name(tensor.data_type)
