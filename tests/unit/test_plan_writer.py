"""Plans compiled by the real builder of TensorRT for RTX: faults of its callbacks, older graphs, the timing cache."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from build_engines import tensorrt
from build_engines.export import export
from build_engines.tensorrt import PlanOptions, compile_plan
from serve.backends.shapes import Range, Shapes
from serve.types import Axis, ComponentSpec, DType, TensorSpec

trt: Any = pytest.importorskip("tensorrt_rtx", reason="it alone builds without a GPU")
OPTIONS = PlanOptions(Shapes(ranges=(Range(low={"batch": 1}, high={"batch": 4}),)), architecture="sm_89")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.linear(tokens)[:, None]
        return nn.functional.scaled_dot_product_attention(hidden, hidden, hidden)[:, 0]


def spec_of(precision: DType) -> ComponentSpec:
    shape = ("batch", 16, 64)
    return ComponentSpec(
        "scaled",
        inputs=(TensorSpec("tokens", precision, shape),),
        outputs=(TensorSpec("mixed", precision, shape),),
        axes=(Axis("batch", 1, 1, 8),),
    )


SPEC = spec_of("float32")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export(SPEC, Scaled().eval(), {}, path)
    return path


def compiled(graph: Path, plan: Path, progress: Callable[[str, float], None] = lambda phase, share: None) -> int:
    compile_plan(graph, plan, SPEC, OPTIONS, progress)
    return plan.stat().st_size


def test_a_disk_that_is_full_is_told_as_such(graph: Path):
    with pytest.raises(OSError, match="No space left on device"):
        compile_plan(graph, Path("/dev/full"), SPEC, OPTIONS, lambda phase, share: None)


@pytest.mark.parametrize("after", [1, 5])
def test_an_interrupt_while_it_compiles_ends_the_build_as_one(graph: Path, tmp_path: Path, after: int):
    told: list[str] = []

    def progress(phase: str, share: float) -> None:
        told.append(phase)
        if len(told) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_plan(graph, tmp_path / "model.plan", SPEC, OPTIONS, progress)
    assert len(told) == after


def test_a_library_without_streams_writes_the_same_plan(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As TensorRT before 10.13 is."""
    streamed = compiled(graph, tmp_path / "streamed.plan")
    monkeypatch.delattr(trt.Builder, "build_serialized_network_to_stream")

    assert compiled(graph, tmp_path / "whole.plan") == streamed


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_graph_is_of_the_newest_opset_that_what_runs_it_takes(precision: DType, tmp_path: Path):
    path = tmp_path / "model.onnx"

    def refusal(path: Path) -> str | None:
        return "no importer for Attention" if "Attention" in {node.op_type for node in _nodes(path)} else None

    module = Scaled().to(getattr(torch, precision)).eval()

    assert export(spec_of(precision), module, {}, path) == 23
    assert export(spec_of(precision), module, {}, path, tensorrt.refusal) == 23
    assert export(spec_of(precision), module, {}, path, refusal) == 20
    assert not refusal(path)


def test_the_parser_says_what_it_does_not_take(graph: Path, tmp_path: Path):
    model = onnx.load(str(graph))
    model.graph.node[0].op_type = "Unheard"
    onnx.save(model, str(tmp_path / "model.onnx"))

    assert tensorrt.refusal(graph) is None
    assert "cannot read" in (tensorrt.refusal(tmp_path / "model.onnx") or "")
    assert "Unheard" in (tensorrt.refusal(tmp_path / "model.onnx") or "")


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("float16", True)])
def test_float32_is_not_computed_with_ten_bits(
    precision: DType, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[bool] = []
    write = tensorrt.write_plan

    def watched(library: Any, builder: Any, network: Any, config: Any, *rest: Any) -> bool:
        seen.append(config.get_flag(trt.BuilderFlag.TF32))
        return write(library, builder, network, config, *rest)

    monkeypatch.setattr(tensorrt, "write_plan", watched)
    spec, path = spec_of(precision), tmp_path / "model.onnx"
    export(spec, Scaled().to(getattr(torch, precision)).eval(), {}, path)
    compile_plan(path, tmp_path / "model.plan", spec, OPTIONS, lambda phase, share: None)

    assert seen == [allowed]


class Timed:
    """A builder's configuration as `tensorrt` has it: a cache of another GPU is not taken."""

    def __init__(self, here: bytes = b"this GPU: ") -> None:
        self._here, self._cache = here, b""

    def create_timing_cache(self, known: bytes) -> Any:
        return SimpleNamespace(known=known, serialize=lambda: self._cache)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        fits = not cache.known or cache.known.startswith(self._here)
        if fits:
            self._cache = cache.known or self._here
        return fits

    def get_timing_cache(self) -> Any:
        if not self._cache:
            return None
        self._cache += b"x"
        return self.create_timing_cache(self._cache)


def test_what_was_timed_is_known_to_the_next_build(tmp_path: Path):
    path = tmp_path / ".timing.cache"
    for _ in range(2):
        tensorrt.TimingCache(Timed(), path).save()
    assert path.read_bytes() == b"this GPU: xx"
    assert list(tmp_path.iterdir()) == [path]


def test_a_timing_cache_that_is_not_taken_is_replaced(tmp_path: Path):
    path = tmp_path / ".timing.cache"
    path.write_bytes(b"another GPU: xxx")
    tensorrt.TimingCache(Timed(), path).save()
    assert path.read_bytes() == b"this GPU: x"


def test_a_timing_cache_that_cannot_be_read_or_written_fails_no_build(tmp_path: Path):
    """A folder lies where it should."""
    path = tmp_path / ".timing.cache"
    path.mkdir()
    tensorrt.TimingCache(Timed(), path).save()
    tensorrt.TimingCache(Timed(), tmp_path / "nowhere" / "cache").save()
    assert list(tmp_path.iterdir()) == [path]


def _nodes(path: Path) -> Any:
    return onnx.load(str(path)).graph.node
