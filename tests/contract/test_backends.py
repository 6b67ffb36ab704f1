"""What every executor of components promises, kept by each that runs on a CPU."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines.build import Wish
from build_engines.inputs import lengths_of, random_inputs
from build_engines.parts import Part, loaded, parts_of
from build_engines.verify import TOLERATED, relative_error
from serve.backends import load_backend
from serve.backends.base import Backend, Component
from serve.backends.checks import name_of
from serve.engine.engine import Engine, EngineOptions
from serve.families import load_family
from serve.families.base import Family
from serve.families.flux_kontext_components import waves
from serve.settings import ModelSettings, TritonSettings
from serve.types import EditJob
from tests import pictures
from tests.contract.engines import build, small_model
from tests.triton.server import Triton

BATCH = 4
RUNNERS = [
    ("torch", "float32"),
    ("onnxruntime", "float32"),
    ("onnxruntime", "float16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("triton", "float32"),
]
JOB = EditJob(
    request_id="edit",
    prompt="make it black and white",
    canvas=pictures.photo((64, 96)),
    references=(),
    mask=None,
    seeds=(7,),
    steps=4,
    strength=1.0,
    guidance=1.0,
)


@dataclass(frozen=True)
class Ready:
    """A small model on an executor. parts: how to make the torch module of each component."""

    model: ModelSettings
    backend: Backend
    family: Family
    calls: Mapping[str, Component]
    parts: Mapping[str, Part]

    def inputs(self, component: str, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
        spec = self.calls[component].spec
        return random_inputs(spec, lengths_of(spec, self.family.lengths((96, 64), [(64, 64)]), batch), seed)


@pytest.fixture(scope="module", params=RUNNERS, ids=["-".join(runner) for runner in RUNNERS])
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    backend, precision = request.param
    folder = tmp_path_factory.mktemp(backend)
    model = small_model("pixel_edit", folder, backend=backend, precision=precision)
    if backend == "triton":
        build(model, Wish(backend="onnxruntime", python=True))
        triton = Triton(model.model_repository, folder).start()
        yield _ready(model.model_copy(update={"triton": TritonSettings(address=triton.address)}))
        triton.stop()
        return
    if backend != "torch":
        build(model)
    yield _ready(model)


def _ready(model: ModelSettings) -> Ready:
    made = loaded(model)
    return Ready(model, made.backend, made.family, made.components, parts_of(model, name_of(made.backend.dtype))[1])


def test_every_component_computes_what_torch_does(ready: Ready):
    for name, component in ready.calls.items():
        inputs = ready.inputs(name, batch=3)
        with torch.inference_mode():
            wanted = ready.parts[name].module().eval()(**inputs)
        (found,) = component(inputs).values()
        assert found.dtype == wanted.dtype
        assert relative_error(found, wanted) <= TOLERATED[ready.model.precision]


def test_a_row_has_the_same_bytes_in_every_batch_that_the_engine_makes(ready: Ready):
    """Of any size where the backend says so, else of one."""
    for name, component in ready.calls.items():
        rows = [ready.inputs(name, batch=1, seed=seed) for seed in range(BATCH)]
        (whole,) = component({key: torch.cat([row[key] for row in rows]) for key in rows[0]}).values()
        for place in range(BATCH):
            if ready.backend.batch_invariant:
                others = [(rows[place],), (rows[place], rows[0]), (rows[1], rows[2], rows[place])]
            else:
                others = [(rows[3], rows[2], rows[1], rows[place]), (rows[place],) * BATCH]
            for batch in others:
                (answer,) = component({key: torch.cat([row[key] for row in batch]) for key in rows[0]}).values()
                at = next(index for index, row in enumerate(batch) if row is rows[place])
                assert torch.equal(answer[at], whole[place]), (name, place, len(batch))


def test_answers_are_the_callers_to_keep_and_change(ready: Ready):
    for name, component in ready.calls.items():
        inputs = ready.inputs(name, batch=1)
        kept = {key: tensor.clone() for key, tensor in inputs.items()}
        (first,) = component(inputs).values()
        copy = first.clone()
        (second,) = component(ready.inputs(name, batch=1, seed=5)).values()
        second.zero_()
        assert torch.equal(first, copy)
        (again,) = component(inputs).values()
        assert torch.equal(again, copy)
        assert all(torch.equal(tensor, kept[key]) for key, tensor in inputs.items())


def test_a_tensor_that_does_not_fit_is_named_with_what_is_expected_and_what_was_found(ready: Ready):
    denoiser = ready.calls["denoiser"]
    inputs = ready.inputs("denoiser", batch=1)
    with pytest.raises(ValueError, match=f"tensor latents must be {name_of(ready.backend.dtype)}; found float64"):
        denoiser({**inputs, "latents": inputs["latents"].double()})
    with pytest.raises(ValueError, match=r"tensor text must have shape \(batch, 16, 32\); found \(1, 3, 32\)"):
        denoiser({**inputs, "text": inputs["text"][:, :3]})
    with pytest.raises(ValueError, match="axis height must be 16 as in the tensors before; found 15"):
        denoiser({**inputs, "source": inputs["source"][:, :, :15]})
    with pytest.raises(ValueError, match="axis height must be 4 to 384; found 3"):
        denoiser({**inputs, "latents": inputs["latents"][:, :, :3]})
    with pytest.raises(ValueError, match="denoiser takes latents, sigma, source, text, text_mask; found latents"):
        denoiser({"latents": inputs["latents"]})


def test_inputs_may_lie_in_memory_as_they_like(ready: Ready):
    inputs = ready.inputs("denoiser", batch=2)
    (plain,) = ready.calls["denoiser"](inputs).values()
    strided = {**inputs, "latents": inputs["latents"].contiguous(memory_format=torch.channels_last)}
    (answer,) = ready.calls["denoiser"](strided).values()
    assert relative_error(answer, plain) <= 1e-5


def test_the_engine_draws_with_it_what_it_draws_with_torch(ready: Ready, tmp_path: Path):
    drawn = _drawn(ready.family, ready.backend)
    torch_model = small_model("pixel_edit", Path(ready.model.weights).parent)
    backend = load_backend(torch_model)
    wanted = _drawn(load_family(torch_model, backend), backend)
    close = {"float32": 2, "float16": 5, "bfloat16": 40}[ready.model.precision]  # float16 has 3 bits more than bfloat16
    assert np.abs(drawn.astype(int) - wanted.astype(int)).max() <= close


def test_flux_kontext_runs_on_compiled_components(tmp_path: Path):
    """All five of them, with a reference and a mask, against torch."""
    model = small_model("flux_kontext", tmp_path, backend="onnxruntime")
    build(model)
    job = {"references": (pictures.photo((96, 64)),), "mask": pictures.photo((64, 96))[:, :, 0], "guidance": 2.5}
    images: list[np.ndarray] = []
    for settings in (model, model.model_copy(update={"backend": "torch"})):
        backend = load_backend(settings)
        images.append(_drawn(load_family(settings, backend), backend, **job))
    assert np.abs(images[0].astype(int) - images[1].astype(int)).max() <= 1


def test_flux_kontext_is_told_its_noise_level_where_all_of_a_graph_is_bfloat16(tmp_path: Path):
    """A noise level of 0.45 has phases up to 450, which bfloat16 rounds to even numbers."""
    build(
        small_model("flux_kontext", tmp_path, backend="openvino", precision="bfloat16"), Wish(components=("denoiser",))
    )
    compiled = {"denoiser": {"backend": "openvino", "precision": "bfloat16"}}
    torch_alone, mixed = (loaded(small_model("flux_kontext", tmp_path, components=one)) for one in ({}, compiled))
    spec, lengths = torch_alone.components["denoiser"].spec, torch_alone.family.lengths((96, 64), [(64, 64)])
    inputs = random_inputs(spec, lengths_of(spec, lengths, 1))
    for level in (0.45, 0.97):
        told = {**inputs, "timestep": waves(torch.tensor([level]), torch.float32)}
        (wanted,), (found,) = (one.components["denoiser"](told).values() for one in (torch_alone, mixed))
        assert relative_error(found, wanted) <= TOLERATED["bfloat16"]


def test_a_component_may_run_on_another_executor_than_the_others(tmp_path: Path):
    model = small_model("pixel_edit", tmp_path, backend="onnxruntime")
    build(model)
    mixed = small_model("pixel_edit", tmp_path, components={"denoiser": {"backend": "onnxruntime"}})
    backend = load_backend(mixed)
    drawn = _drawn(load_family(mixed, backend), backend)
    whole = load_backend(model)
    wanted = _drawn(load_family(model, whole), whole)
    assert "denoiser: onnxruntime" in backend.name
    assert not backend.batch_invariant
    assert np.abs(drawn.astype(int) - wanted.astype(int)).max() <= 1


def _drawn(family: Family, backend: Backend, **changes: object) -> np.ndarray:
    engine = Engine(family, backend, EngineOptions(max_batch=BATCH))
    engine.start()
    try:
        return engine.submit(replace(JOB, **changes)).result(120).images[0]
    finally:
        engine.drain(10)
