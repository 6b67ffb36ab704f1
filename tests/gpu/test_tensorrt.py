"""TensorRT engines, built on the spot for the GPU that is here, against torch."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serve.backends import fingerprint
from serve.backends.checks import DTYPES
from serve.backends.manifest import MANIFEST, MODEL_PACKAGES, Engine, Manifest, versions
from serve.backends.shapes import Range, Shapes
from serve.backends.tensorrt import TensorRtBackend, architecture_of
from serve.backends.tensorrt_component import TensorRtComponent
from serve.errors import ConfigurationError, UnsupportedParameter
from serve.types import Axis, ComponentSpec, DType, TensorSpec
from tests.gpu import CUDA, on_a_gpu
from tests.gpu.launches import GRAPH_LAUNCH, calls, without_waiting

pytestmark = on_a_gpu

STATIC = ({"batch": 1, "length": 64}, {"batch": 4, "length": 64}, {"batch": 1, "length": 128})
RANGE = Range(low={"batch": 1, "length": 16}, high={"batch": 4, "length": 128})
SHAPES = Shapes(static=STATIC, ranges=(RANGE,))
TOLERANCE = {"float32": 2e-3, "float16": 5e-3, "bfloat16": 3e-2}
"""Relative root mean square. float32 products may be of TF32, which has 10 bits; float16 has 10 and bfloat16 7, and two
layers and an attention follow each other."""
TIMES = 4
ROWS = 4
"""Of the largest batch that is built for."""


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        hidden = self.first(tokens)[:, None]
        mixed = nn.functional.scaled_dot_product_attention(hidden, hidden, hidden)[:, 0]
        return self.last(mixed) * scale[:, None, None]


def spec_of(precision: DType) -> ComponentSpec:
    tokens = ("batch", "length", 64)
    return ComponentSpec(
        name="mixer",
        inputs=(TensorSpec("tokens", precision, tokens), TensorSpec("scale", precision, ("batch",))),
        outputs=(TensorSpec("mixed", precision, tokens),),
        axes=(Axis("batch", 1, 1, 8), Axis("length", 8, 64, 256)),
    )


@dataclass(frozen=True)
class Built:
    repository: Path
    weights: Path
    precision: DType

    @property
    def engine(self) -> Engine:
        return Engine(self.repository, "m", "mixer")

    def load(self, *, cuda_graphs: bool = True) -> TensorRtComponent:
        backend = TensorRtBackend(self.repository, "m", "cuda:0", self.precision, cuda_graphs=cuda_graphs)
        return backend.load(spec_of(self.precision), lambda _: Mixer(), self.weights)

    def inputs(self, seed: int, batch: int, length: int) -> dict[str, Tensor]:
        generator = torch.Generator(CUDA).manual_seed(seed)
        tokens = torch.randn(batch, length, 64, generator=generator, device=CUDA)
        scale = torch.rand(batch, generator=generator, device=CUDA) + 0.5
        return {"tokens": tokens.to(DTYPES[self.precision]), "scale": scale.to(DTYPES[self.precision])}

    def expected(self, inputs: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            return Mixer().to(CUDA).eval()(**{name: tensor.float() for name, tensor in inputs.items()})


@pytest.fixture(scope="module", params=list(TOLERANCE))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    exporter = pytest.importorskip("build_engines.export", reason="ONNX is not installed")
    tools = pytest.importorskip("build_engines.tensorrt")
    precision: DType = request.param
    folder = tmp_path_factory.mktemp(precision)
    weights = folder / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    made = Built(folder / "repository", weights, precision)
    made.engine.version.mkdir(parents=True)
    spec, onnx = spec_of(precision), folder / "model.onnx"
    exporter.export(spec, Mixer().eval().to(DTYPES[precision]), {"length": 64}, onnx)
    library = _compiled(tools, onnx, made, spec)
    manifest = Manifest(
        component="mixer",
        backend="tensorrt",
        precision=precision,
        weights=fingerprint.of_weights(weights),
        spec=fingerprint.of_spec(spec),
        code=spec.code,
        versions={**versions(*MODEL_PACKAGES), **library},
        architecture=architecture_of(CUDA),
        platform="tensorrt_plan",
        opset=20,
        shapes=SHAPES,
        files={"model.plan": made.engine.file("tensorrt").stat().st_size},
        errors="compared in the tests",
        seconds=0.0,
        peak_mib=0.0,
    )
    (made.engine.version / MANIFEST).write_text(manifest.model_dump_json())
    return made


def _compiled(tools: Any, onnx: Path, made: Built, spec: ComponentSpec) -> dict[str, str]:
    """Skips where no library is installed, or the one that is does not build for this GPU."""
    try:
        library = tools.load_library().__name__
        target = architecture_of(CUDA) if library == "tensorrt_rtx" else ""
        options = tools.PlanOptions(SHAPES, architecture=target)
        return tools.compile_plan(onnx, made.engine.file("tensorrt"), spec, options, lambda phase, share: None)
    except ConfigurationError as error:
        pytest.skip(str(error))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found.float() - expected).square().mean() / expected.square().mean()).sqrt())


@pytest.mark.parametrize(("batch", "length"), [(1, 64), (4, 64), (1, 128), (2, 64), (3, 100), (1, 16)])
def test_an_engine_answers_what_torch_answers_at_every_shape(built: Built, batch: int, length: int):
    component = built.load()

    for seed in range(TIMES):
        given = built.inputs(seed, batch, length)
        found = component(given)["mixed"]
        assert found.shape == (batch, length, 64)
        assert relative_error(found, built.expected(given)) < TOLERANCE[built.precision]


def test_static_shapes_run_as_graphs_with_the_same_bytes_and_ranges_do_not(
    built: Built, caplog: pytest.LogCaptureFixture
):
    graphed, plain = built.load(), built.load(cuda_graphs=False)
    with caplog.at_level(logging.WARNING):
        for axes in STATIC:
            for seed in range(TIMES):
                given = built.inputs(seed, **axes)
                assert torch.equal(graphed(given)["mixed"], plain(given)["mixed"])
            assert calls(lambda: graphed(given))[GRAPH_LAUNCH] == 1  # noqa: B023
            assert GRAPH_LAUNCH not in calls(lambda: plain(given))  # noqa: B023
    between = built.inputs(0, 2, 64)
    graphed(between)

    assert GRAPH_LAUNCH not in calls(lambda: graphed(between))
    assert not caplog.records


@pytest.mark.parametrize("length", [64, 48], ids=["static", "in the range"])
def test_a_call_makes_the_host_wait_for_nothing_and_asks_the_driver_for_no_memory(built: Built, length: int):
    component = built.load()
    given = built.inputs(0, 1, length)
    for _ in range(TIMES):
        component(given)

    with without_waiting():
        component(given)
    asked = calls(lambda: component(given))

    assert not {"cudaMalloc", "cudaMallocAsync", "cudaFree"} & asked.keys()


@pytest.mark.parametrize("length", [64, 48], ids=["static", "in the range"])
def test_a_row_has_the_same_bytes_at_every_place_and_in_every_company_of_one_batch_size(built: Built, length: int):
    component = built.load()
    rows = [built.inputs(seed, 1, length) for seed in range(ROWS)]

    def answers(*order: int) -> Tensor:
        return component({name: torch.cat([rows[row][name] for row in order]) for name in rows[0]})["mixed"]

    for _ in range(2):  # the second time by a graph
        whole = answers(*range(ROWS))
        for row in range(ROWS):
            assert all(torch.equal(answer, whole[row]) for answer in answers(*[row] * ROWS))
        assert torch.equal(answers(*reversed(range(ROWS))), whole.flip(0))


def test_a_component_takes_no_more_rows_than_its_engine_was_built_for(built: Built):
    assert {axis.name: axis.max for axis in built.load().spec.axes} == {"batch": ROWS, "length": 256}


def test_answers_stay_what_they_were_whatever_runs_next(built: Built):
    component = built.load()
    shapes = [(1, 64), (4, 64), (1, 128), (3, 80)]
    given = [built.inputs(seed, *shape) for seed, shape in enumerate(shapes)]
    first = [component(one)["mixed"] for one in given]
    copies = [answer.clone() for answer in first]

    for one in reversed(given):
        component(one)["mixed"].zero_()

    assert all(torch.equal(answer, copy) for answer, copy in zip(first, copies, strict=True))


def test_inputs_that_are_no_plain_memory_are_read_right(built: Built):
    component = built.load()
    for length in (64, 48):
        given = built.inputs(0, 2, length)
        strided = {"tokens": given["tokens"].transpose(1, 2).contiguous().transpose(1, 2)}
        shifted = {"scale": torch.cat([given["scale"][:1], given["scale"]])[1:]}
        assert torch.equal(component(strided | shifted)["mixed"], component(given)["mixed"])


def test_a_call_on_another_stream_reads_what_that_stream_wrote(built: Built):
    component = built.load()
    given = built.inputs(0, 4, 64)
    expected = component(given)["mixed"]
    stream = torch.cuda.Stream(CUDA)
    stream.wait_stream(torch.cuda.current_stream(CUDA))

    with torch.cuda.stream(stream):
        late = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
        torch.cuda._sleep(50_000_000)  # pyright: ignore[reportPrivateUsage]
        for name, tensor in given.items():
            late[name].copy_(tensor)
        found = component(late)["mixed"]

    stream.synchronize()
    assert torch.equal(found, expected)


def test_a_size_that_was_not_built_is_refused_with_the_command_that_builds_it(built: Built):
    component = built.load()

    with pytest.raises(UnsupportedParameter, match=r"built for length 16 to 128 \(found 200\).*retouch build-engines"):
        component(built.inputs(0, 1, 200))


def test_a_corrupt_plan_stops_the_start(built: Built):
    path = built.engine.file("tensorrt")
    whole = path.read_bytes()
    try:
        path.write_bytes(bytes(len(whole)))
        with pytest.raises(ConfigurationError, match=r"cannot be loaded from .*model.plan .*; build it: retouch"):
            built.load()
    finally:
        path.write_bytes(whole)
