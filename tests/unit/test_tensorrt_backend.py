"""TensorRT engines without a GPU: which of them are refused and why, and which profile a call runs with."""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serve.backends import fingerprint
from serve.backends.manifest import MANIFEST, MODEL_PACKAGES, Engine, Manifest, versions
from serve.backends.shapes import Asked, Range, Shapes
from serve.backends.tensorrt import CHUNK_BYTES, Pieces, TensorRtBackend
from serve.backends.tensorrt_library import PACKAGES, identity, load_library, make_logger
from serve.errors import ConfigurationError
from serve.types import Axis, ComponentSpec, TensorSpec

ARCHITECTURE = "sm_89"
SPEC = ComponentSpec(
    name="mixer",
    inputs=(TensorSpec("tokens", "float32", ("batch", "length", 8)), TensorSpec("scale", "float32", ("batch",))),
    outputs=(TensorSpec("mixed", "float32", ("batch", "length", 8)),),
    axes=(Axis("batch", 1, 1, 8), Axis("length", 2, 16, 64)),
)
SHAPES = Shapes(
    static=({"batch": 1, "length": 16}, {"batch": 4, "length": 16}, {"batch": 1, "length": 32}),
    ranges=(Range(low={"batch": 1, "length": 2}, high={"batch": 4, "length": 32}),),
    asked=Asked(sizes=((768, 512),), references=(0, 1), batches=(1, 4)),
)

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        return self.linear(tokens) * scale[:, None, None]


@dataclass(frozen=True)
class Built:
    """An engine that was really compiled, for another GPU than the one that may be here."""

    trt: Any
    engine: Engine
    weights: Path

    def checked(self, **asked: Any) -> Manifest:
        """As the backend asks, but for what is given."""
        arguments: dict[str, Any] = {
            "backend": "tensorrt",
            "precision": "float32",
            "spec": SPEC,
            "weights": self.weights,
            "architecture": ARCHITECTURE,
            "libraries": identity(self.trt),
        }
        return self.engine.checked(**(arguments | asked))


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="it alone builds without a GPU")


@pytest.fixture(scope="module")
def compiled(trt: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, str]]:
    """The plan, and what took part in it."""
    tools = pytest.importorskip("build_engines.tensorrt")
    exporter = pytest.importorskip("build_engines.export", reason="ONNX is not installed")
    folder = tmp_path_factory.mktemp("plan")
    onnx, plan = folder / "model.onnx", folder / "model.plan"
    exporter.export(SPEC, Mixer().eval(), {"length": 16}, onnx)
    options = tools.PlanOptions(SHAPES, architecture=ARCHITECTURE)
    library = tools.compile_plan(onnx, plan, SPEC, options, lambda phase, share: None)
    return plan.read_bytes(), library


@pytest.fixture
def built(trt: Any, compiled: tuple[bytes, dict[str, str]], tmp_path: Path) -> Built:
    plan, library = compiled
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    engine = Engine(tmp_path / "repository", "m", SPEC.name)
    engine.version.mkdir(parents=True)
    engine.file("tensorrt").write_bytes(plan)
    manifest = Manifest(
        component=SPEC.name,
        backend="tensorrt",
        precision="float32",
        weights=fingerprint.of_weights(weights),
        spec=fingerprint.of_spec(SPEC),
        code=SPEC.code,
        versions={**versions(*MODEL_PACKAGES), **library},
        architecture=ARCHITECTURE,
        platform="tensorrt_plan",
        opset=20,
        shapes=SHAPES,
        files={"model.plan": len(plan)},
        errors="not compared: there is no GPU",
        seconds=1.0,
        peak_mib=1.0,
    )
    (engine.version / MANIFEST).write_text(manifest.model_dump_json())
    return Built(trt, engine, weights)


def test_an_engine_that_fits_is_taken(built: Built):
    assert built.checked().shapes == SHAPES


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"backend": "onnxruntime"}, "its backend is tensorrt, wanted is onnxruntime"),
        ({"precision": "bfloat16"}, "its precision is float32, wanted is bfloat16"),
        ({"spec": replace(SPEC, axes=(SPEC.axes[0], Axis("length", 2, 16, 65)))}, "its spec is"),
        ({"architecture": "sm_90"}, "its architecture is sm_89, wanted is sm_90"),
        ({"libraries": {"library": "tensorrt"}}, "its library is tensorrt_rtx, wanted is tensorrt"),
        ({"libraries": {"version": "1.0"}}, r"its version is [\d.]+, wanted is 1\.0"),
        ({"libraries": {"other": "1.0"}}, r"its other is not told, wanted is 1\.0"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_by_name(built: Built, asked: dict[str, Any], named: str):
    with pytest.raises(ConfigurationError, match=f"the engine of m's mixer does not fit: {named}"):
        built.checked(**asked)


def test_a_refusal_tells_the_command_that_builds_another(built: Built):
    command = (
        "retouch build-engines --model m --components mixer --backend tensorrt --precision float32 "
        "--sizes 768x512 --references 0,1 --batch 1,4"
    )

    with pytest.raises(ConfigurationError, match=f"; build it: {command}, with the server's --config if it has one$"):
        built.checked(architecture="sm_90")


def test_the_command_is_that_of_the_engine_that_is_there_or_for_what_is_asked(built: Built):
    command = "retouch build-engines --model m --components mixer --backend {} --precision float32{}, with "
    path = built.engine.version / MANIFEST
    path.write_text(path.read_text().replace('"tensorrt_plan"', '"python"'))

    told = built.engine.advice("tensorrt", "float32", Asked(references=(0, 1, 2)))

    assert command.format("tensorrt", " --references 0,1,2 --python") in told
    assert command.format("openvino", "") in built.engine.advice("openvino", "float32")
    path.unlink()
    assert command.format("tensorrt", " --batch 2") in built.engine.advice("tensorrt", "float32", Asked(batches=(2,)))


def test_an_engine_of_other_weights_is_refused(built: Built):
    (built.weights / "config.json").write_text('{"trained": "anew"}')

    with pytest.raises(ConfigurationError, match="its weights is"):
        built.checked()


def test_a_plan_that_was_cut_off_is_refused(built: Built):
    plan = built.engine.file("tensorrt")
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1])

    with pytest.raises(ConfigurationError, match=f"size of model.plan is {len(whole) - 1}, wanted is {len(whole)}"):
        built.checked()


def test_a_plan_that_is_missing_is_refused(built: Built):
    built.engine.file("tensorrt").unlink()

    with pytest.raises(ConfigurationError, match=r"size of model.plan is that of no file.*build it: retouch"):
        built.checked()


def test_a_manifest_that_is_missing_or_broken_is_told(built: Built):
    manifest = built.engine.version / MANIFEST
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"unknown": 1}))
    with pytest.raises(ConfigurationError, match=r"has a manifest that cannot be read .*build it: retouch"):
        built.checked()

    manifest.unlink()
    with pytest.raises(ConfigurationError, match=r"is not built: there is no .*build it: retouch"):
        built.checked()


def test_a_plan_is_read_in_pieces_from_wherever_the_library_asks(tmp_path: Path):
    content = bytes(range(256)) * 8
    path = tmp_path / "plan"
    path.write_bytes(content)

    with path.open("rb") as file:
        pieces = Pieces(file)
        assert pieces.read(100) == content[:100]
        assert pieces.read(2 * CHUNK_BYTES) == content[100:]
        pieces.seek(10, os.SEEK_SET)
        assert pieces.read(5) == content[10:15]
        pieces.seek(5, os.SEEK_CUR)
        assert pieces.read(5) == content[20:25]
        pieces.seek(8, os.SEEK_END)
        assert pieces.read(100) == content[-8:]


def test_no_piece_of_a_plan_is_larger_than_what_may_be_in_memory(tmp_path: Path):
    path = tmp_path / "plan"
    with path.open("wb") as file:
        file.truncate(2 * CHUNK_BYTES)

    with path.open("rb") as file:
        pieces = Pieces(file)
        assert [len(pieces.read(2 * CHUNK_BYTES)) for _ in range(3)] == [CHUNK_BYTES, CHUNK_BYTES, 0]


def test_the_first_error_is_told_once(trt: Any):
    logger = make_logger(trt)
    severity = trt.ILogger.Severity
    logger.log(severity.WARNING, "slow")
    logger.log(severity.ERROR, "the cause")
    logger.log(severity.ERROR, "what follows from it")

    assert [logger.told(), logger.told()] == ["the cause", "it gives no reason"]


def test_without_either_library_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ConfigurationError, match="neither tensorrt nor tensorrt_rtx is installed; pip install"):
        load_library()


def test_another_device_than_a_gpu_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="the backend tensorrt needs a CUDA device; found device 'cpu'"):
        TensorRtBackend(tmp_path, "m", "cpu", "float32")


@needs_no_gpu
def test_without_a_gpu_the_start_says_so(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"device 'cuda' cannot be used on this machine: [^\n]+$"):
        TensorRtBackend(tmp_path, "m", "cuda", "float32")
