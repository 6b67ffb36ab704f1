"""The torch backend's CUDA graphs against the same modules run eagerly, bit for bit."""

import logging

import pytest
import torch
from torch import Tensor, nn

from serve.backends.cuda_graphs import KEPT
from serve.backends.torch import TorchBackend, TorchComponent
from serve.types import Axis, ComponentSpec, TensorSpec
from tests.gpu import CUDA, on_a_gpu
from tests.gpu.launches import GRAPH_LAUNCH, calls, without_waiting

pytestmark = on_a_gpu

SPEC = ComponentSpec(
    name="mixer",
    inputs=(
        TensorSpec("picture", "bfloat16", ("batch", 3, "side", "side")),
        TensorSpec("scale", "bfloat16", ("batch",)),
    ),
    outputs=(TensorSpec("mixed", "bfloat16", ("batch", 32, "side", "side")),),
    axes=(Axis("batch", 1, 1, 8), Axis("side", 8, 32, 64)),
)
TIMES = 4
"""The first call runs eagerly, the second records, the others replay."""


class Mixer(nn.Module):
    """Convolutions, attention over all pixels and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.to(torch.bfloat16)

    def forward(self, picture: Tensor, scale: Tensor) -> Tensor:
        hidden = self.norm(self.first(picture))
        tokens = hidden.flatten(2).transpose(1, 2)[:, None]
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].transpose(1, 2)
        return self.last(mixed.unflatten(2, hidden.shape[2:])) * scale[:, None, None, None]


class Waiting(Mixer):
    """Reads a number back from the device, which no graph can record."""

    def forward(self, picture: Tensor, scale: Tensor) -> Tensor:
        return super().forward(picture, scale) * (2 if scale.sum().item() > 0 else 3)


def loaded(module: type[nn.Module], *, cuda_graphs: bool = True, compiled: bool = False) -> TorchComponent:
    backend = TorchBackend("cuda:0", "bfloat16", threads=1, cuda_graphs=cuda_graphs, compiled=compiled)
    return backend.load(SPEC, lambda _: module())


def inputs(seed: int, side: int = 32, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator(CUDA).manual_seed(seed)
    picture = torch.randn(batch, 3, side, side, generator=generator, device=CUDA, dtype=torch.bfloat16)
    return {"picture": picture, "scale": torch.rand(batch, generator=generator, device=CUDA).to(torch.bfloat16) + 0.5}


def test_a_graph_answers_the_bytes_of_the_eager_module():
    eager, graphed = loaded(Mixer, cuda_graphs=False), loaded(Mixer)

    for seed in range(TIMES):
        assert torch.equal(graphed(inputs(seed))["mixed"], eager(inputs(seed))["mixed"])


def test_from_the_third_call_on_a_graph_is_launched():
    component = loaded(Mixer)
    given = inputs(0)
    component(given)
    component(given)

    assert calls(lambda: component(given))[GRAPH_LAUNCH] == 1
    assert GRAPH_LAUNCH not in calls(lambda: loaded(Mixer, cuda_graphs=False)(given))


def test_a_replayed_call_makes_the_host_wait_for_nothing():
    component = loaded(Mixer)
    given = inputs(0)
    for _ in range(TIMES):
        component(given)

    with without_waiting():
        component(given)


def test_answers_stay_what_they_were_whatever_runs_next():
    eager = loaded(Mixer, cuda_graphs=False)
    backend = TorchBackend("cuda:0", "bfloat16", threads=1)
    first, second = (backend.load(SPEC, lambda _: Mixer()) for _ in range(2))
    for component in (first, second):
        for side in (32, 16):
            component(inputs(0, side))
            component(inputs(0, side))

    kept = [first(inputs(5))["mixed"], first(inputs(6, 16))["mixed"], second(inputs(7))["mixed"]]
    for seed in range(TIMES):
        first(inputs(seed, 16))["mixed"].zero_()
        second(inputs(seed))["mixed"].zero_()

    expected = [eager(inputs(5)), eager(inputs(6, 16)), eager(inputs(7))]
    assert all(torch.equal(one, other["mixed"]) for one, other in zip(kept, expected, strict=True))


def test_more_shapes_than_are_kept_come_out_right():
    eager, graphed = loaded(Mixer, cuda_graphs=False), loaded(Mixer)
    shapes = [(side, batch) for side in (8, 16, 24, 32, 40, 48) for batch in (1, 2, 3)]
    assert len(shapes) > KEPT

    for seed in range(2):
        for side, batch in shapes:
            given = inputs(seed, side, batch)
            answers = [graphed(given)["mixed"] for _ in range(3)]
            expected = eager(given)["mixed"]
            assert all(torch.equal(answer, expected) for answer in answers)


def test_a_module_that_waits_for_the_device_runs_without_a_graph(caplog: pytest.LogCaptureFixture):
    waiting, expected = loaded(Waiting), loaded(Waiting, cuda_graphs=False)(inputs(0))["mixed"]

    with caplog.at_level(logging.WARNING):
        answers = [waiting(inputs(0))["mixed"] for _ in range(TIMES)]

    assert all(torch.equal(answer, expected) for answer in answers)
    assert [record.message.split(":")[0] for record in caplog.records] == ["the mixer runs without a CUDA graph"]


def test_after_a_recording_that_failed_others_still_succeed():
    waiting, component = loaded(Waiting), loaded(Mixer)
    waiting(inputs(0))
    waiting(inputs(0))
    torch.cuda.empty_cache()

    answers = [component(inputs(1))["mixed"] for _ in range(TIMES)]

    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert calls(lambda: component(inputs(1)))[GRAPH_LAUNCH] == 1


def test_a_compiled_module_answers_alike_with_and_without_graphs_and_near_the_eager_one():
    """bfloat16 has 8 bits; a fused kernel rounds once where several round each."""
    eager, compiled = loaded(Mixer, cuda_graphs=False), loaded(Mixer, compiled=True)
    plain = loaded(Mixer, cuda_graphs=False, compiled=True)

    for seed in range(TIMES):
        answer, expected = compiled(inputs(seed))["mixed"], eager(inputs(seed))["mixed"].float()
        assert torch.equal(answer, plain(inputs(seed))["mixed"])
        assert ((answer.float() - expected).square().mean() / expected.square().mean()).sqrt() < 2e-2
