"""The torch backend: what a component accepts, what it answers, and how its failures are named."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.real_models import DOUBLE_BLOCKS, SINGLE_BLOCKS, kontext_denoiser, unet_denoiser
from serve.backends import compiler, load_backend
from serve.backends.torch import TorchBackend, TorchComponent
from serve.errors import BackendLost, BackendUnavailable, ConfigurationError, DeviceOutOfMemory, EditError
from serve.settings import ModelSettings
from serve.types import Axis, ComponentSpec, TensorSpec

SPEC = ComponentSpec(
    name="mixer",
    inputs=(
        TensorSpec("picture", "float32", ("batch", 3, "side", "side")),
        TensorSpec("ids", "int64", ("batch", "length")),
    ),
    outputs=(TensorSpec("mixed", "float32", ("batch", 4, "side", "side")), TensorSpec("ids", "int64", ("batch",))),
    axes=(Axis("batch", 1, 1, 4), Axis("side", 2, 8, 16), Axis("length", 1, 3, 5)),
)

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler on a CPU"
)


@pytest.fixture(autouse=True)
def _thread_count_is_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def backend() -> TorchBackend:
    return TorchBackend("cpu", "float32", threads=1)


@pytest.fixture
def mixer(backend: TorchBackend) -> TorchComponent:
    return backend.load(SPEC, lambda _: Mixer())


class Mixer(nn.Module):
    """A convolution, a dropout that only training applies, and one input handed through."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.9)

    def forward(self, picture: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.dropout(self.convolution(picture)), ids[:, 0]


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, picture: Tensor, ids: Tensor) -> Tensor:
        raise self.error


class Hungry(nn.Module):
    """Asks for a petabyte."""

    def forward(self, picture: Tensor, ids: Tensor) -> Tensor:
        return torch.empty(10**15, dtype=torch.uint8)


class Pooling(nn.Module):
    def forward(self, picture: Tensor) -> Tensor:
        return picture[:, :, ::2, ::2]


def test_a_component_answers_its_outputs_by_name(mixer: TorchComponent):
    inputs = _inputs()

    outputs = mixer(inputs)

    assert list(outputs) == ["mixed", "ids"]
    assert outputs["mixed"].shape == (2, 4, 8, 8)
    assert torch.equal(outputs["ids"], inputs["ids"][:, 0])


def test_a_component_runs_in_eval_mode_without_gradients(mixer: TorchComponent):
    outputs = mixer(_inputs())

    assert torch.equal(outputs["mixed"], mixer(_inputs())["mixed"])
    assert not outputs["mixed"].requires_grad


def test_answers_belong_to_the_caller_and_inputs_stay_as_they_were(mixer: TorchComponent):
    inputs = _inputs()

    outputs = mixer(inputs)
    outputs["ids"].fill_(-1)
    outputs["mixed"].mul_(0)

    assert torch.equal(inputs["ids"], _inputs()["ids"])
    assert mixer(inputs)["mixed"].abs().sum() > 0


def test_weights_at_odd_addresses_are_moved_to_aligned_ones(backend: TorchBackend):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(65.0)[1:])
            self.register_buffer("offset", torch.arange(65.0)[1:])

    module = Odd()
    assert module.weight.data_ptr() % 64

    backend.load(SPEC, lambda _: module)

    tensors = [module.weight, module.get_buffer("offset")]
    assert [tensor.data_ptr() % 64 for tensor in tensors] == [0, 0]
    assert all(torch.equal(tensor, torch.arange(65.0)[1:]) for tensor in tensors)


def test_a_weight_that_two_layers_share_stays_shared(backend: TorchBackend):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight

    backend.load(SPEC, lambda _: nn.Sequential(first, second))

    assert second.weight is first.weight


def test_convolutions_run_channels_last(backend: TorchBackend):
    module = Mixer()

    backend.load(SPEC, lambda _: module)

    assert module.convolution.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"picture": torch.zeros(2, 4, 8, 8)},
            r"tensor picture must have shape \(batch, 3, side, side\); found \(2, 4,",
        ),
        (
            {"picture": torch.zeros(2, 3, 8)},
            r"tensor picture must have shape \(batch, 3, side, side\); found \(2, 3, 8\)",
        ),
        ({"picture": torch.zeros(2, 3, 8, 9)}, "axis side must be 8 as in the tensors before; found 9"),
        ({"picture": torch.zeros(2, 3, 17, 17)}, "axis side must be 2 to 16; found 17"),
        ({"picture": torch.zeros(2, 3, 8, 8).half()}, "tensor picture must be float32; found float16"),
        ({"picture": torch.zeros(2, 3, 8, 8, device="meta")}, "tensor picture must be on cpu; found meta"),
        ({"ids": torch.zeros(2, 3)}, "tensor ids must be int64; found float32"),
        ({"ids": torch.zeros(3, 3).long()}, "axis batch must be 2 as in the tensors before; found 3"),
        ({"ids": torch.zeros(2, 6).long()}, "axis length must be 1 to 5; found 6"),
        ({"mask": torch.zeros(2)}, "mixer takes ids, picture; found ids, mask, picture"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(mixer: TorchComponent, changes: dict[str, Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        mixer({**_inputs(), **changes})


def test_a_missing_tensor_is_named(mixer: TorchComponent):
    with pytest.raises(ValueError, match="mixer takes ids, picture; found ids"):
        mixer({"ids": _inputs()["ids"]})


@pytest.mark.parametrize(
    ("error", "named", "message"),
    [
        (torch.OutOfMemoryError("2 GiB"), DeviceOutOfMemory, "mixer ran out of device memory; try again"),
        (torch.AcceleratorError("CUDA error: x\nCompile"), BackendLost, "the device failed in mixer: CUDA error: x"),
        (torch.AcceleratorError(), BackendLost, "the device failed in mixer: AcceleratorError"),
    ],
)
def test_a_failing_device_is_named_by_whether_it_can_recover(
    backend: TorchBackend, error: Exception, named: type[EditError], message: str
):
    component = backend.load(SPEC, lambda _: Failing(error))

    with pytest.raises(BackendUnavailable) as raised:
        component(_inputs())

    assert (type(raised.value), raised.value.message) == (named, message)
    assert raised.value.__cause__ is error


def test_a_machine_without_the_memory_for_a_call_says_so(backend: TorchBackend):
    component = backend.load(SPEC, lambda _: Hungry())

    with pytest.raises(DeviceOutOfMemory, match="mixer ran out of device memory; try again"):
        component(_inputs())


def test_a_machine_without_the_memory_for_the_weights_says_so(backend: TorchBackend):
    with pytest.raises(DeviceOutOfMemory, match="mixer ran out of device memory"):
        backend.load(SPEC, lambda _: nn.Linear(2**25, 2**25))


def test_a_device_that_is_too_small_for_the_weights_says_so(backend: TorchBackend):
    def build(_: torch.dtype) -> nn.Module:
        raise torch.OutOfMemoryError("2 GiB")

    with pytest.raises(BackendUnavailable, match="mixer ran out of device memory"):
        backend.load(SPEC, build)


def test_a_bug_in_a_module_is_not_called_unavailable(backend: TorchBackend):
    component = backend.load(SPEC, lambda _: Failing(RuntimeError("shapes cannot be multiplied")))

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        component(_inputs())


@pytest.mark.parametrize(("ratio", "plus"), [(Fraction(1, 2), 0), (Fraction(1, 4), 2)])
def test_an_axis_of_the_answer_follows_from_one_of_the_inputs(backend: TorchBackend, ratio: Fraction, plus: int):
    component = backend.load(pooling(ratio, plus), lambda _: Pooling())

    assert component({"picture": torch.zeros(1, 3, 8, 8)})["pooled"].shape == (1, 3, 4, 4)


def test_an_answer_of_another_shape_than_declared_is_our_own_bug(backend: TorchBackend):
    component = backend.load(pooling(Fraction(1, 4), 0), lambda _: Pooling())

    with pytest.raises(
        RuntimeError, match=r"pooling answered pooled of shape \(1, 3, 4, 4\); declared is \(1, 3, 2, 2\)"
    ):
        component({"picture": torch.zeros(1, 3, 8, 8)})


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (9, "pooling: axis pooled_side must be 1/2 of side; found side 9"),
        (14, "pooling: axis pooled_side must be 1 to 6; found 7"),
    ],
)
def test_an_axis_that_cannot_follow_from_the_inputs_is_named(backend: TorchBackend, side: int, message: str):
    component = backend.load(pooling(Fraction(1, 2), 0), lambda _: Pooling())

    with pytest.raises(ValueError, match=message):
        component({"picture": torch.zeros(1, 3, side, side)})


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_stops_the_start(device: str):
    with pytest.raises(ConfigurationError, match=rf"device '{device}' cannot be used on this machine: [^\n]+$"):
        TorchBackend(device, "float32", threads=1)


def test_the_settings_choose_device_precision_and_threads():
    model = ModelSettings(id="m", family="flux_kontext", weights="w", precision="bfloat16", threads=2)

    backend = load_backend(model)

    assert (backend.device, backend.dtype, backend.batch_invariant) == (torch.device("cpu"), torch.bfloat16, False)
    assert torch.get_num_threads() == 2


@needs_compiler
def test_a_compiled_component_answers_what_the_eager_one_does(mixer: TorchComponent):
    """Fused kernels round in another order: some bits of the last of 24."""
    backend = load_backend(ModelSettings(id="m", family="flux_kontext", weights="w", compile=True, threads=1))

    compiled = backend.load(SPEC, lambda _: _seeded(Mixer), Path())
    expected = TorchBackend("cpu", "float32", threads=1).load(SPEC, lambda _: _seeded(Mixer))

    assert backend.name.startswith("torch, compiled, ")
    assert torch.allclose(compiled(_inputs())["mixed"], expected(_inputs())["mixed"], rtol=1e-5, atol=1e-5)
    assert torch.equal(compiled(_inputs())["ids"], _inputs()["ids"][:, 0])


def test_a_machine_that_cannot_compile_stops_the_start(tmp_path: Path):
    code = "from serve.backends.torch import TorchBackend; TorchBackend('cpu', 'float32', threads=1, compiled=True)"
    variables = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)

    assert "ConfigurationError: compile: torch.compile does not work on this machine: " in done.stderr


def test_blocks_that_repeat_are_compiled_once_for_all_where_they_hold_nearly_all_weights():
    meta = torch.device("meta")
    denoiser, unet = kontext_denoiser(meta, torch.bfloat16), unet_denoiser(meta, torch.bfloat16)

    assert len(compiler.repeated_blocks(denoiser)) == DOUBLE_BLOCKS + SINGLE_BLOCKS
    assert compiler.compiled(denoiser) is denoiser
    assert compiler.compiled(unet) is not unet


def test_the_backend_is_named_by_its_cpu_and_threads():
    assert re.fullmatch(r"torch, \S.*, 3 threads", TorchBackend("cpu", "float32", threads=3).name)


def pooling(ratio: Fraction, plus: int) -> ComponentSpec:
    sides = (Axis("side", 2, 8, 16), Axis("pooled_side", 1, 4, 6, of=("side",), ratio=ratio, plus=plus))
    return ComponentSpec(
        name="pooling",
        inputs=(TensorSpec("picture", "float32", ("batch", 3, "side", "side")),),
        outputs=(TensorSpec("pooled", "float32", ("batch", 3, "pooled_side", "pooled_side")),),
        axes=(Axis("batch", 1, 1, 4), *sides),
    )


def _seeded(module: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return module()


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(2, 3, 8, 8, generator=generator)
    return {"picture": picture, "ids": torch.arange(6).reshape(2, 3)}
