"""The simulated backend: answers that tell rows apart, times of a table, the memory of a device that is not there."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from benchmarks.checkpoints import flux_kontext_configurations
from serve.backends import load_backend
from serve.backends.simulated import SimulatedBackend, SimulatedComponent, filled
from serve.errors import ConfigurationError, DeviceOutOfMemory
from serve.families import flux_kontext_components as flux
from serve.families import load_family
from serve.settings import ModelSettings, SimulatedSettings
from serve.types import ComponentSpec, TensorSpec

NO_TIME = SimulatedSettings(timings="zero")
BATCH = 8
TOKENS = 1024
DIMENSIONS = flux.Dimensions(
    dtype="bfloat16",
    latent_channels=16,
    token_pixels=16,
    clip_tokens=77,
    t5_tokens=512,
    clip_words=49408,
    t5_words=32128,
    text_width=64,
    pooled_width=32,
    rotary_axes=(16, 56, 56),
)
SPECS = {
    spec.name: spec
    for spec in (
        flux.text_encoder_spec(DIMENSIONS),
        flux.text_encoder_2_spec(DIMENSIONS),
        flux.vae_encoder_spec(DIMENSIONS),
        flux.vae_decoder_spec(DIMENSIONS),
        flux.denoiser_spec(DIMENSIONS),
    )
}


@pytest.fixture(autouse=True)
def _thread_count_is_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def denoiser() -> SimulatedComponent:
    return component("denoiser")


def component(name: str) -> SimulatedComponent:
    return SimulatedBackend(NO_TIME, "bfloat16").load(SPECS[name], unbuilt)


def unbuilt(_: torch.dtype) -> NoReturn:
    raise AssertionError("no module is built")


def step(rows: int = BATCH, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the denoiser for pictures of 512x512 pixels, one reference each."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    return {
        "latents": random(TOKENS, 64).bfloat16(),
        "references": random(TOKENS, 64).bfloat16(),
        "timestep": random(flux.WAVES).bfloat16(),
        "guidance": random(flux.WAVES).bfloat16(),
        "text": random(512, 64).bfloat16(),
        "pooled": random(32).bfloat16(),
        "rotary": random(2 * TOKENS + 512, 256),
    }


@pytest.mark.parametrize("name", SPECS)
def test_a_row_has_the_same_bytes_alone_and_at_every_place_of_every_batch(name: str):
    runs = component(name)
    inputs = example(SPECS[name], rows=5)
    (output,) = runs(inputs).values()

    for index in range(5):
        for size in (1, 2, 4):
            places = [(index + other) % 5 for other in range(size)]
            (part,) = runs({key: tensor[places] for key, tensor in inputs.items()}).values()
            assert torch.equal(part[0], output[index])


@pytest.mark.parametrize("name", SPECS)
def test_rows_of_different_inputs_have_different_answers(name: str):
    (output,) = component(name)(example(SPECS[name], rows=5)).values()

    assert len({tuple(part.flatten().tolist()) for part in output}) == 5


@pytest.mark.parametrize("name", step(1))
def test_a_row_depends_on_each_of_its_own_inputs_and_on_no_neighbours(denoiser: SimulatedComponent, name: str):
    before, changed = step(), step()
    changed[name][3] += 1

    same = (denoiser(before)["velocity"] == denoiser(changed)["velocity"]).flatten(1).all(dim=1)

    assert same.tolist() == [index != 3 for index in range(BATCH)]


def test_equal_inputs_in_other_layouts_have_equal_answers():
    encoder = component("vae_encoder")
    pixels = torch.randn(2, 3, 64, 96).bfloat16()

    outputs = [
        encoder({"pixels": pixels.contiguous(memory_format=layout)})["latents"]
        for layout in (torch.contiguous_format, torch.channels_last)
    ]

    assert torch.equal(*outputs)


def test_swapping_two_of_a_rows_inputs_shows(denoiser: SimulatedComponent):
    inputs = step(1)
    swapped = {**inputs, "latents": inputs["references"], "references": inputs["latents"]}

    assert not torch.equal(denoiser(inputs)["velocity"], denoiser(swapped)["velocity"])


def test_prompts_that_differ_in_one_token_have_different_encodings():
    encoder = component("text_encoder_2")
    ids = torch.ones(64, 512, dtype=torch.int64)
    ids[range(64), range(0, 512, 8)] = 2

    texts = encoder({"ids": ids})["text"]

    assert len({tuple(text.flatten().tolist()) for text in texts}) == 64


def test_answers_stay_in_bounds_over_a_hundred_euler_steps(denoiser: SimulatedComponent):
    inputs = step(2)
    for _ in range(100):
        velocity = denoiser(inputs)["velocity"]
        assert velocity.abs().max() <= 1
        inputs["latents"] = inputs["latents"] - velocity / 100

    assert inputs["latents"].isfinite().all()
    assert (inputs["latents"].float() - step(2)["latents"].float()).abs().max() < 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_every_type_can_be_answered_and_tells_rows_apart(dtype: torch.dtype):
    answer = filled(torch.tensor([1, 2, -(2**63), 2**63 - 1]), (4, 6, 64), dtype)

    assert (answer.shape, answer.dtype) == ((4, 6, 64), dtype)
    assert len({tuple(part.flatten().tolist()) for part in answer}) == 4
    assert answer.float().isfinite().all()


def test_answers_belong_to_the_caller(denoiser: SimulatedComponent):
    inputs = step()
    before = denoiser(inputs)["velocity"].clone()

    denoiser(inputs)["velocity"].zero_()

    assert torch.equal(denoiser(inputs)["velocity"], before)
    assert all(torch.equal(inputs[name], tensor) for name, tensor in step().items())


@pytest.mark.parametrize(
    ("name", "inputs", "output", "shape"),
    [
        ("vae_encoder", {"pixels": (2, 3, 512, 256)}, "latents", (2, 16, 64, 32)),
        ("vae_decoder", {"latents": (2, 16, 64, 32)}, "pixels", (2, 3, 512, 256)),
    ],
)
def test_axes_that_only_outputs_have_follow_from_those_of_the_inputs(
    name: str, inputs: dict[str, tuple[int, ...]], output: str, shape: tuple[int, ...]
):
    answers = component(name)({key: torch.zeros(size).bfloat16() for key, size in inputs.items()})

    assert answers[output].shape == shape
    assert answers[output].dtype == torch.bfloat16


def test_a_picture_that_no_whole_number_of_latent_cells_covers_is_refused():
    with pytest.raises(ValueError, match="vae_encoder: axis latent_height must be 1/8 of height; found height 500"):
        component("vae_encoder")({"pixels": torch.zeros(1, 3, 500, 512).bfloat16()})


def test_a_rotary_embedding_of_other_positions_than_the_tokens_is_refused(denoiser: SimulatedComponent):
    inputs = {**step(), "rotary": torch.zeros(BATCH, 2000, 256)}

    with pytest.raises(
        ValueError,
        match=r"axis positions must be tokens \+ reference_tokens \+ 512; found tokens 1024, reference_tokens 1024, "
        "positions 2000",
    ):
        denoiser(inputs)


def test_inputs_are_checked_as_those_of_real_components_are(denoiser: SimulatedComponent):
    with pytest.raises(ValueError, match="denoiser: tensor latents must be bfloat16; found float32"):
        denoiser({**step(), "latents": torch.zeros(BATCH, TOKENS, 64)})


def test_a_call_takes_the_time_of_its_batch_and_size_divided_by_the_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table = write_table(
        tmp_path, "[{tokens: 512, seconds: {1: 100, 8: 800}}, {tokens: 2048, seconds: {1: 200, 8: 3800}}]"
    )
    clock = Clock(monkeypatch)
    runs = backend(table, speed=10).load(SPECS["denoiser"], unbuilt)

    runs(step(8))
    runs(step(1))

    assert clock.slept == [pytest.approx((800 + 3000 / 3) / 10), pytest.approx((100 + 100 / 3) / 10)]


def test_the_size_of_a_call_is_that_of_what_it_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Positions of the first output: pixels where a picture is decoded, cells where one is encoded."""
    table = write_table(tmp_path, "[{tokens: 1, seconds: {1: 1}}, {tokens: 1000001, seconds: {1: 1000001}}]")
    clock = Clock(monkeypatch)
    device = backend(table)

    device.load(SPECS["vae_encoder"], unbuilt)({"pixels": torch.zeros(1, 3, 64, 128).bfloat16()})
    device.load(SPECS["vae_decoder"], unbuilt)({"latents": torch.zeros(1, 16, 8, 16).bfloat16()})
    device.load(SPECS["text_encoder"], unbuilt)({"ids": torch.zeros(1, 77).long()})

    assert clock.slept == [pytest.approx(8 * 16), pytest.approx(64 * 128), pytest.approx(1)]


def test_a_sleep_that_ends_early_goes_on_until_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch, share=0.5)
    runs = backend(write_table(tmp_path, "[{seconds: {1: 8}}]")).load(SPECS["denoiser"], unbuilt)
    started = clock.now

    runs(step(1))

    assert clock.slept[:3] == [8, 4, 2]
    assert clock.now == pytest.approx(started + 8)


def test_a_call_of_no_time_does_not_sleep(denoiser: SimulatedComponent, monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)

    denoiser(step())

    assert clock.slept == []


def test_calls_of_one_device_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    device = backend(write_table(tmp_path, "[{seconds: {1: 0.02}}]"))
    components = [device.load(SPECS["denoiser"], unbuilt) for _ in range(4)]
    running: list[int] = []
    together: list[int] = []

    def sleep(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        running.append(1)
        together.append(len(running))
        sleep(seconds)
        running.pop()

    monkeypatch.setattr(time, "sleep", sleep)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda runs: runs(step(1)), components))

    assert together == [1] * len(together)
    assert len(together) >= 4


def test_a_call_that_passes_the_devices_memory_says_so_and_the_next_smaller_one_runs(tmp_path: Path):
    device = backend(write_table(tmp_path, memory="{weights_bytes: 1000, bytes_per_row: {default: [{bytes: 100}]}}"))
    runs = device.load(SPECS["denoiser"], unbuilt)

    with pytest.raises(DeviceOutOfMemory, match="denoiser ran out of device memory; try again"):
        runs(step(6))

    assert len(runs(step(5))["velocity"]) == 5


def test_the_meter_shows_weights_between_calls_and_the_largest_call_as_the_peak(tmp_path: Path):
    device = backend(write_table(tmp_path, memory="{weights_bytes: 1000, bytes_per_row: {denoiser: [{bytes: 100}]}}"))
    runs, meter = device.load(SPECS["denoiser"], unbuilt), device.memory

    assert (meter.capacity_bytes(), meter.used_bytes(), meter.peak_bytes()) == (1500, 1000, 1000)
    runs(step(4))
    runs(step(2))
    assert (meter.used_bytes(), meter.peak_bytes()) == (1000, 1400)
    meter.reset_peak()
    meter.release()
    assert meter.peak_bytes() == 1000


def test_rows_of_larger_pictures_take_more_memory(tmp_path: Path):
    per_row = "{default: [{tokens: 1024, bytes: 100}, {tokens: 2048, bytes: 300}]}"
    device = backend(write_table(tmp_path, memory=f"{{weights_bytes: 0, bytes_per_row: {per_row}}}"))
    larger = {
        **step(1),
        "latents": torch.zeros(1, 1536, 64).bfloat16(),
        "rotary": torch.zeros(1, 1536 + TOKENS + 512, 256),
    }

    device.load(SPECS["denoiser"], unbuilt)(larger)

    assert device.memory.peak_bytes() == 200


def test_weights_that_the_device_has_no_room_for_stop_the_start(tmp_path: Path):
    device = backend(write_table(tmp_path, memory="{weights_bytes: 1501}"))

    with pytest.raises(DeviceOutOfMemory, match="denoiser ran out of device memory"):
        device.load(SPECS["denoiser"], unbuilt)


def test_a_component_that_the_table_does_not_know_stops_the_start(tmp_path: Path):
    device = backend(write_table(tmp_path, component="denoiser"))

    with pytest.raises(ConfigurationError, match="lack the component vae_decoder, and have no default"):
        device.load(SPECS["vae_decoder"], unbuilt)


def test_the_settings_choose_table_speed_memory_precision_and_threads():
    simulated = SimulatedSettings(timings="h200", speed=10, memory_bytes=80 * 10**9)

    device = load_backend(settings("w", simulated=simulated, precision="bfloat16", threads=2))

    assert device.name == "simulated h200 x10, 80 GB"
    assert (device.device, device.dtype, device.batch_invariant) == (torch.device("cpu"), torch.bfloat16, True)
    assert device.memory.capacity_bytes() == 80 * 10**9
    assert torch.get_num_threads() == 2


def test_one_thread_computes_unless_the_settings_say_more():
    torch.set_num_threads(2)

    load_backend(settings("w", threads=0))

    assert torch.get_num_threads() == 1


def test_a_real_device_cannot_be_asked_for():
    with pytest.raises(ConfigurationError, match="model m: device 'cuda' cannot be simulated"):
        load_backend(settings("w", device="cuda", num_gpus=1))


def test_flux_kontext_loads_from_configurations_and_has_the_real_geometry(tmp_path: Path):
    model = settings(str(flux_kontext_configurations(tmp_path)))

    family = load_family(model, load_backend(model))

    latents, references = family.denoiser.spec.inputs[:2]
    assert latents.shape == ("batch", "tokens", 64)
    assert references.shape == ("batch", "reference_tokens", 64)
    assert family.denoiser(step_of(family.denoiser.spec))["velocity"].shape == (2, TOKENS, 64)


class Clock:
    """The clock and the sleep of `time`, without the waiting. share: of each sleep that is slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float = 1.0) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._share = share
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds * self._share if seconds > 1e-6 else seconds


def settings(
    weights: str,
    simulated: SimulatedSettings = NO_TIME,
    *,
    device: str = "cpu",
    num_gpus: float = 0,
    precision: str = "float32",
    threads: int = 1,
) -> ModelSettings:
    return ModelSettings.model_validate(
        {
            "id": "m",
            "family": "flux_kontext",
            "weights": weights,
            "backend": "simulated",
            "simulated": simulated,
            "device": device,
            "num_gpus": num_gpus,
            "precision": precision,
            "threads": threads,
        }
    )


def backend(table: Path, speed: float = 1.0) -> SimulatedBackend:
    return SimulatedBackend(SimulatedSettings(timings=str(table), speed=speed, memory_bytes=1500), "bfloat16")


def write_table(
    folder: Path, timings: str = "[{seconds: {1: 0}}]", memory: str = "{}", component: str = "default"
) -> Path:
    path = folder / "table.yaml"
    path.write_text(f"{{source: a test, components: {{{component}: {timings}}}, memory: {memory}}}")
    return path


def example(spec: ComponentSpec, rows: int) -> dict[str, Tensor]:
    if spec.name == "denoiser":
        return step(rows)
    lengths = {"batch": rows, "height": 64, "width": 96, "latent_height": 8, "latent_width": 12}
    return {tensor.name: random_tensor(tensor, lengths) for tensor in spec.inputs}


def step_of(spec: ComponentSpec) -> dict[str, Tensor]:
    """Inputs of whatever widths the denoiser declares."""
    text = next(tensor.shape[1] for tensor in spec.inputs if tensor.name == "text")
    assert isinstance(text, int)
    lengths = {"batch": 2, "tokens": TOKENS, "reference_tokens": TOKENS, "positions": 2 * TOKENS + text}
    return {tensor.name: random_tensor(tensor, lengths) for tensor in spec.inputs}


def random_tensor(spec: TensorSpec, lengths: dict[str, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = [size if isinstance(size, int) else lengths[size] for size in spec.shape]
    if spec.dtype == "int64":
        return torch.randint(100, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(getattr(torch, spec.dtype))
