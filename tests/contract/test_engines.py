"""The build of compiled components: what comes out, when it is made anew, and how it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from build_engines import export
from build_engines.build import Wish, build_model
from build_engines.job import Job, Target
from build_engines.parts import Part, parts_of
from build_engines.profiles import shapes_of
from serve.backends import load_backend
from serve.backends.manifest import Engine
from serve.backends.shapes import Asked
from serve.errors import ConfigurationError
from serve.families import components_of, load_family
from serve.settings import ComponentSettings, ModelSettings
from serve.types import Axis, ComponentSpec, TensorSpec
from tests.contract.engines import SIZES, build, small_model
from tests.waiting import eventually

PLAN = Wish(backend="tensorrt", architecture="sm_89", sizes=SIZES, batches=(1, 2))
PLANS = {"float32": PLAN, "float16": replace(PLAN, sizes=SIZES[:1]), "bfloat16": replace(PLAN, sizes=SIZES[1:])}
"""Each profile takes its seconds to compile, and which there are does not depend on the precision."""
SPEC = ComponentSpec(
    "denoiser",
    inputs=(TensorSpec("latents", "float32", ("batch", 4, "width")),),
    outputs=(TensorSpec("velocity", "float32", ("batch", 4, "width")),),
    axes=(Axis("batch", 1, 1, 8), Axis("width", 1, 8, 64)),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    """Of the embedded family, with its engines built."""
    made = small_model("pixel_edit", tmp_path_factory.mktemp("engines"), backend="onnxruntime")
    build(made)
    return made


@pytest.fixture
def copy(model: ModelSettings, tmp_path: Path) -> ModelSettings:
    """To be changed."""
    shutil.copytree(model.model_repository, tmp_path / "model_repository")
    shutil.copytree(model.weights, tmp_path / "weights")
    return model.model_copy(
        update={"model_repository": tmp_path / "model_repository", "weights": str(tmp_path / "weights")}
    )


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", ["flux_kontext", "pixel_edit"])
def test_all_components_export_agree_with_torch_and_compile_with_the_real_builder(
    family: str, precision: str, tmp_path: Path
):
    plan = PLANS[precision]
    model = small_model(family, tmp_path, backend="tensorrt", precision=precision)
    built = build(model, plan)
    assert set(built) == set(components_of(model))
    for name, one in built.items():
        assert not one.fresh
        assert list(one.manifest.files) == ["model.plan"]
        assert one.manifest.files["model.plan"] == (one.folder / "1" / "model.plan").stat().st_size > 10_000
        assert one.manifest.precision == precision
        assert "is off by" in str(one.manifest.errors), name
        assert one.manifest.versions["library"] == "tensorrt_rtx"
        assert (one.folder / "config.pbtxt").is_file()
    denoiser = built["denoiser"].manifest.shapes
    counts = {"flux_kontext": (0, 1), "pixel_edit": (0,)}[family]
    assert denoiser.asked == Asked(sizes=plan.sizes, references=counts, batches=(1, 2))
    assert [shape["batch"] for shape in denoiser.static] == [1, 2] * len(plan.sizes) * len(counts)


def test_the_components_of_a_family_are_those_that_it_loads(model: ModelSettings, tmp_path: Path):
    for one in (model, small_model("flux_kontext", tmp_path)):
        _, parts = parts_of(one, "float32")
        assert set(parts) == set(components_of(one))
        for part in parts.values():
            assert any(path.suffix == ".safetensors" for path in part.weights.iterdir())


def test_a_graph_has_the_names_and_free_axes_of_the_declaration(model: ModelSettings):
    _, parts = parts_of(model, "float32")
    for name, part in parts.items():
        graph = onnx.load(Engine(model.model_repository, model.id, name).file("onnxruntime")).graph
        for declared, found in zip((*part.spec.inputs, *part.spec.outputs), (*graph.input, *graph.output), strict=True):
            shape = tuple(axis.dim_param or axis.dim_value for axis in found.type.tensor_type.shape.dim)
            assert (found.name, shape) == (declared.name, declared.shape)


def test_a_manifest_tells_what_the_engine_was_made_of(model: ModelSettings):
    manifest = Engine(model.model_repository, model.id, "denoiser").manifest()
    assert (manifest.backend, manifest.precision, manifest.architecture) == ("onnxruntime", "float32", "any")
    assert manifest.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert isinstance(manifest.errors, dict)
    assert 0 <= manifest.errors["sample"].measured <= manifest.errors["sample"].tolerated == 1e-4
    assert manifest.seconds > 0
    assert manifest.peak_mib > 50


def test_large_weights_lie_in_a_file_of_their_own(copy: ModelSettings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "LARGE_BYTES", 10_000)
    wish = Wish(components=("denoiser",), backend="openvino")
    manifest = build(copy, wish)["denoiser"].manifest
    assert manifest.files["model.onnx.data"] > 10_000
    assert isinstance(manifest.errors, dict)
    other = copy.model_copy(update={"components": {"denoiser": ComponentSettings(backend="openvino")}})
    _load(other)
    _truncate(Engine(copy.model_repository, copy.id, "denoiser").version / "model.onnx.data")
    with pytest.raises(ConfigurationError, match=r"its size of model\.onnx\.data is"):
        _load(other)


def test_what_is_up_to_date_is_not_made_again(copy: ModelSettings):
    before = {path: path.stat().st_mtime_ns for path in copy.model_repository.rglob("*") if path.name != ".lock"}
    assert all(one.fresh for one in build(copy).values())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_weights_make_an_engine_stale_and_only_that_one(copy: ModelSettings):
    path = next(Path(copy.weights, "denoiser").glob("*.safetensors"))
    tensors = load_file(path)
    last = list(tensors)[-1]
    save_file({**tensors, last: tensors[last] + 1}, path)
    with pytest.raises(ConfigurationError, match=r"denoiser does not fit: its weights is \w+, wanted is \w+; build it"):
        _load(copy)
    built = build(copy)
    assert not built["denoiser"].fresh
    assert built["text_encoder"].fresh
    _load(copy)


def test_a_plan_of_another_version_of_the_library_is_made_again(copy: ModelSettings):
    """The server would refuse it."""
    wish = replace(PLAN, components=("text_encoder",))
    built = build(copy, wish)["text_encoder"]
    path = built.folder / "1" / "manifest.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "versions": {**told["versions"], "version": "1.0"}}))
    assert not build(copy, wish)["text_encoder"].fresh
    assert build(copy, wish)["text_encoder"].fresh


def test_another_python_model_than_is_built_with_now_is_made_again(copy: ModelSettings):
    wish = Wish(components=("text_encoder",), python=True)
    assert not build(copy, wish)["text_encoder"].fresh
    model = Engine(copy.model_repository, copy.id, "text_encoder").version / "model.py"
    model.write_text(model.read_text().replace("Triton", "Triten", 1))
    assert not build(copy, wish)["text_encoder"].fresh
    assert build(copy, wish)["text_encoder"].fresh


@pytest.mark.parametrize(("batches", "rows"), [((1,), 1), ((1, 2), 2), ((1, 8), 3)])
def test_a_plan_is_compared_at_shapes_that_it_takes(batches: tuple[int, ...], rows: int):
    lengths: tuple[Mapping[str, int], ...] = ({"width": 8}, {"width": 12})
    shapes = shapes_of(SPEC, [{"width": 32}], batches)
    target = Target("tensorrt", "float32", "tensorrt_plan", "sm_89", shapes)
    job = Job(ModelSettings(id="m", family="f", weights="w"), Part(SPEC, nn.Identity, Path()), target, lengths, print)
    assert [each["batch"] for each in job.compared_at()] == [1, rows]
    assert [shapes.profile(each) for each in job.compared_at()] == [len(batches)] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "openvino"),
        ("precision", "float16"),
        ("weights", "0" * 32),
        ("spec", "0" * 32),
        ("code", "0" * 32),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_by_the_field_that_differs(copy: ModelSettings, field: str, value: str):
    manifest = Engine(copy.model_repository, copy.id, "text_encoder").version / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: value}))
    with pytest.raises(ConfigurationError) as refused:
        _load(copy)
    assert f"its {field} is {value}, wanted is " in str(refused.value)
    assert f"retouch build-engines --model {copy.id} --components text_encoder --backend onnxruntime" in str(
        refused.value
    )
    assert not build(copy)["text_encoder"].fresh
    _load(copy)


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_an_engine_of_another_version_of_what_computes_it_is_refused_and_made_again(copy: ModelSettings, package: str):
    manifest = Engine(copy.model_repository, copy.id, "text_encoder").version / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "versions": {**told["versions"], package: "0.1"}}))
    with pytest.raises(
        ConfigurationError, match=rf"text_encoder does not fit: its {package} is 0\.1, wanted is [\d.]+; "
    ):
        _load(copy)
    assert not build(copy)["text_encoder"].fresh
    _load(copy)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _spoil(path: Path) -> None:
    """As long as before."""
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = os.urandom(len(content) // 2)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_truncate, "its size of model.onnx is "),
        (_spoil, "cannot be loaded from "),
        (Path.unlink, "its size of model.onnx is that of no file"),
        (lambda path: shutil.rmtree(path.parent), "is not built: there is no "),
        (lambda path: (path.parent / "manifest.json").write_text("{"), "has a manifest that cannot be read"),
    ],
    ids=["truncated", "corrupt", "missing", "never built", "manifest broken"],
)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_broken_engine_is_told_in_a_sentence_with_the_command_that_mends_it(
    copy: ModelSettings, backend: str, harm: Callable[[Path], object], said: str
):
    engine = Engine(copy.model_repository, copy.id, "text_encoder")
    for name in components_of(copy):
        manifest = Engine(copy.model_repository, copy.id, name).version / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "backend": backend}))
    harm(engine.file("onnxruntime"))
    with pytest.raises(ConfigurationError) as refused:
        _load(copy.model_copy(update={"backend": backend}))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    command = f"retouch build-engines --model {copy.id} --components text_encoder --backend {backend}"
    assert command in str(refused.value)


def test_an_interrupted_build_leaves_what_was_there(copy: ModelSettings):
    engine = Engine(copy.model_repository, copy.id, "denoiser")
    before = engine.manifest()

    def interrupt(component: str, doing: str, share: float | None) -> None:
        if doing == "comparing with torch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_model(copy, Wish(components=("denoiser",), backend="openvino"), interrupt)
    assert engine.manifest() == before
    assert {path.name for path in engine.folder.iterdir()} <= {"1", "config.pbtxt", ".lock"}
    _load(copy)


def test_a_build_that_was_killed_is_swept_away_by_the_next(copy: ModelSettings, tmp_path: Path):
    engine = Engine(copy.model_repository, copy.id, "denoiser")
    shutil.rmtree(engine.version)
    process = subprocess.Popen([sys.executable, "-c", _BUILD, copy.model_dump_json()])
    _wait(lambda: any(path.stat().st_size for path in engine.folder.glob(".building-*/*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(engine.folder.glob(".building-*"))
    assert not engine.version.exists()
    assert not build(copy)["denoiser"].fresh
    assert not list(engine.folder.glob(".building-*"))
    _load(copy)


def test_of_two_builds_at_once_one_builds(copy: ModelSettings):
    shutil.rmtree(Engine(copy.model_repository, copy.id, "denoiser").version)
    words = [sys.executable, "-c", _BUILD, copy.model_dump_json()]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0].split()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told) == ["fresh", "made"]
    _load(copy)


def test_a_disk_that_is_full_is_told_and_leaves_what_was_there(copy: ModelSettings):
    """By the limit of a process on the size of its files, which fails a write as a full disk does."""
    engine = Engine(copy.model_repository, copy.id, "denoiser")
    before = engine.manifest()
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " + _BUILD.replace(
        "build_model(", "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); build_model("
    )
    other = copy.model_copy(update={"backend": "openvino"})
    ended = subprocess.run(
        [sys.executable, "-c", limited, other.model_dump_json()],
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "ConfigurationError: the engine cannot be written to " in ended.stderr
    assert "File too large" in ended.stderr
    assert engine.manifest() == before
    assert not list(engine.folder.glob(".building-*"))


@pytest.mark.parametrize(("what", "name"), [("memory", "virtual_memory"), ("disk", "disk_usage")])
def test_a_build_that_there_is_no_room_for_is_refused_before_it_begins(
    copy: ModelSettings, what: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(Engine(copy.model_repository, copy.id, "denoiser").version)
    small = type("Small", (), {"available": 1000, "free": 1000})()
    monkeypatch.setattr(psutil if name == "virtual_memory" else shutil, name, lambda *_: small)
    said: list[str] = []
    with pytest.raises(
        ConfigurationError, match=rf"the build of denoiser needs 0\.\d\d GB of {what}; 0\.00 GB are free"
    ):
        build_model(copy, Wish(components=("denoiser",)), lambda component, doing, share: said.append(doing))
    assert not said


def test_a_graph_that_computes_something_else_is_refused(copy: ModelSettings, tmp_path: Path):
    class Treacherous(nn.Module):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return latents * (3 if torch.compiler.is_exporting() else 2)

    job = _job(copy, Treacherous)
    with pytest.raises(
        ConfigurationError, match=r"denoiser is not what torch computes: velocity is off by 0\.5 in float32"
    ):
        job.run()


def test_an_axis_that_the_export_freezes_is_found(copy: ModelSettings):
    class Frozen(nn.Module):
        """Exported, it takes the length of the example alone."""

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return latents + torch.zeros(12 if torch.compiler.is_exporting() else 1)

    with pytest.raises(ConfigurationError, match="denoiser"):
        _job(copy, Frozen).run()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(components=("vae",)), "component 'vae' is none of text_encoder, denoiser"),
        (Wish(backend="onnxruntime", precision="bfloat16"), "ONNX Runtime has no bfloat16 kernels for CPUs"),
        (replace(PLAN, architecture="sm_90"), r"tensorrt_rtx cannot build for sm_90; it builds for SM120"),
        (replace(PLAN, architecture=""), "there is no GPU here to build for; name its kind with --architecture"),
        (replace(PLAN, python=True), "--python is for the backend onnxruntime alone; text_encoder is built for "),
        (replace(PLAN, sizes=((512, 512), (2048, 2048))), "small-pixel_edit never draws 2048x2048: sides are "),
        (replace(PLAN, references=(0, 1)), "small-pixel_edit reads 0 references beside the picture at "),
    ],
)
def test_what_cannot_be_built_is_told_in_a_sentence_before_anything_is_done(
    model: ModelSettings, wish: Wish, said: str, tmp_path: Path
):
    told: list[str] = []
    other = model.model_copy(update={"model_repository": tmp_path})
    with pytest.raises(ConfigurationError, match=said):
        build_model(other, wish, lambda component, doing, share: told.append(doing))
    assert not told


def test_a_model_that_needs_no_engines_says_so(model: ModelSettings):
    with pytest.raises(ConfigurationError, match="runs on torch, which needs no engines; name one of onnxruntime"):
        build(model.model_copy(update={"backend": "torch"}))


def _load(model: ModelSettings) -> None:
    load_family(model, load_backend(model))


def _job(model: ModelSettings, module: Callable[[], nn.Module]) -> Job:
    part = Part(SPEC, module, Path(model.weights) / "denoiser")
    lengths: tuple[Mapping[str, int], ...] = ({"width": 8}, {"width": 12})
    target = Target("onnxruntime", "float32", "onnxruntime")
    return Job(model, part, target, lengths, lambda doing, share: None)


def _wait(done: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    def either() -> bool:
        assert process.poll() is None
        return done()

    eventually(either, every_s=0.01)


_BUILD = """
import sys
from build_engines.build import Wish, build_model
from serve.settings import ModelSettings
model = ModelSettings.model_validate_json(sys.argv[1])
built = build_model(model, Wish(components=("denoiser",)), lambda component, doing, share: None)
print("fresh" if built[0].fresh else "made")
"""
