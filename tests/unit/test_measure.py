"""What is measured before the first request: the simulated device's own table, by a clock that the test turns."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.checkpoints import flux_kontext_configurations
from serve.backends import load_backend
from serve.backends.simulated import SimulatedBackend
from serve.engine.measure import JOB_STEPS, REPEATS, measure
from serve.engine.profile import Profile
from serve.errors import DeviceOutOfMemory, UnsupportedParameter
from serve.families import load_family
from serve.families.base import Family, Plan, Stage
from serve.settings import ModelSettings, SimulatedSettings
from serve.types import EditJob, Pixels, Size
from tests.simulation import H200_512PX

ENCODE_S = 0.005 + 0.012 + 0.0056
"""Of both texts and the picture, as the table of the H200 at 512 px has it."""
DECODE_S = 0.0126
LARGE, SMALL = (512, 512), (256, 256)
PASS_BYTES, ENCODE_BYTES, DECODE_BYTES = 150_000_000, 200_000_000, 400_000_000
WEIGHTS_BYTES = 57_400_000_000


class Clock:
    """Stands still but for sleeps. slept: how long each was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += max(seconds, 1e-6)


@pytest.fixture(autouse=True)
def _thread_count_is_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flux_kontext_configurations(tmp_path_factory.mktemp("kontext"))


class Device:
    """A simulated one, and the family on it."""

    def __init__(self, checkpoint: Path, memory_bytes: int = 141 * 10**9) -> None:
        model = ModelSettings(
            id="m",
            family="flux_kontext",
            weights=str(checkpoint),
            backend="simulated",
            simulated=SimulatedSettings(timings="h200-512px", memory_bytes=memory_bytes),
            threads=1,
        )
        self.backend = load_backend(model)
        self.family: Family = load_family(model, self.backend)
        assert isinstance(self.backend, SimulatedBackend)

    def measured(self, *sizes: Size, max_batch: int = 16, within_s: float = 1e6, fixed: bool = False) -> Profile:
        profile = Profile(max_batch, fixed)
        self.backend.batch_invariant = not fixed
        measure(self.family, self.backend, profile, sizes, within_s)
        return profile

    def plan(self, size: Size) -> Plan:
        width, height = size
        pixels = np.zeros((height, width, 3), np.uint8)
        return self.family.plan(EditJob("r", "p", pixels, (), None, (1,), JOB_STEPS, 1.0, 1.0))


def refuse(monkeypatch: pytest.MonkeyPatch, device: Device, *sizes: Size) -> None:
    """As a backend does whose engines were built for other sizes."""
    encode = device.family.encode_image

    def encode_image(pixels: Pixels) -> Stage[torch.Tensor]:
        height, width, _ = pixels.shape
        if (width, height) in sizes:
            raise UnsupportedParameter(f"{width}x{height} was not built")
        return encode(pixels)

    monkeypatch.setattr(device.family, "encode_image", encode_image)


def steps_of(clock: Clock) -> list[float]:
    """Seconds of each call of the denoiser: all others are quicker."""
    return [seconds for seconds in clock.slept if seconds >= H200_512PX[1]]


@pytest.mark.usefixtures("clock")
def test_the_measured_costs_are_those_of_the_device(checkpoint: Path):
    device = Device(checkpoint)
    profile, plan = device.measured(LARGE), device.plan(LARGE)
    assert profile.measured_keys() == [plan.key]
    assert profile.tokens(plan.key) == plan.tokens
    assert [profile.step_s(plan.key, size) for size in H200_512PX] == pytest.approx(list(H200_512PX.values()))
    assert profile.knee(plan.key) == 8
    for curve, seconds in ((profile.encode_s, ENCODE_S), (profile.decode_s, DECODE_S)):
        assert curve.at(plan.key, plan.tokens, 1) == pytest.approx(seconds)


@pytest.mark.usefixtures("clock")
def test_the_measured_peaks_are_those_above_the_weights(checkpoint: Path):
    device = Device(checkpoint)
    profile, plan = device.measured(LARGE), device.plan(LARGE)
    peaks = [profile.peak_bytes.at(plan.key, plan.tokens, size) for size in H200_512PX]
    assert peaks == pytest.approx([PASS_BYTES * size for size in H200_512PX])
    assert profile.encode_bytes.at(plan.key, plan.tokens, 1) == ENCODE_BYTES
    assert profile.decode_bytes.at(plan.key, plan.tokens, 1) == DECODE_BYTES
    assert (profile.row_bytes.at(plan.key, plan.tokens, 1) or 0) > 512 * 512 // 64 * 16 * 2
    assert device.backend.memory.peak_bytes() == WEIGHTS_BYTES


def test_each_batch_up_to_the_largest_is_run_a_few_times(checkpoint: Path, clock: Clock):
    Device(checkpoint).measured(LARGE, max_batch=6)
    table = [H200_512PX[1], H200_512PX[2], H200_512PX[4], (H200_512PX[4] + H200_512PX[8]) / 2]
    assert steps_of(clock) == pytest.approx([seconds for seconds in table for _ in range(REPEATS)])


def test_where_calls_are_filled_up_the_full_one_is_measured_whatever_it_takes(checkpoint: Path, clock: Clock):
    profile = Device(checkpoint).measured(LARGE, max_batch=4, fixed=True, within_s=0.0)
    assert steps_of(clock) == pytest.approx([H200_512PX[4]] * REPEATS)
    assert profile.knee(profile.measured_keys()[0]) == 4


@pytest.mark.usefixtures("clock")
def test_every_size_is_measured_while_there_is_time(checkpoint: Path):
    device = Device(checkpoint)
    assert device.measured(LARGE, SMALL).measured_keys() == [device.plan(size).key for size in (LARGE, SMALL)]


def test_without_time_one_size_is_measured_at_one_pass(checkpoint: Path, clock: Clock):
    device = Device(checkpoint)
    profile = device.measured(LARGE, SMALL, within_s=0.0)
    assert profile.measured_keys() == [device.plan(LARGE).key]
    assert steps_of(clock) == pytest.approx([H200_512PX[1]] * REPEATS)


def test_a_measurement_ends_soon_after_its_time(checkpoint: Path, clock: Clock):
    started_s = clock.now_s
    Device(checkpoint).measured(LARGE, SMALL, within_s=1.0)
    assert 1.0 <= clock.now_s - started_s <= 1.0 + REPEATS * H200_512PX[2] + ENCODE_S + DECODE_S


def test_sizes_that_were_not_built_are_passed_over(checkpoint: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    device = Device(checkpoint)
    refuse(monkeypatch, device, LARGE)

    profile = device.measured(LARGE, SMALL, within_s=0.0)

    assert profile.measured_keys() == [device.plan(SMALL).key]
    assert len(clock.slept) > 0


@pytest.mark.usefixtures("clock")
def test_a_start_without_any_size_that_was_built_says_so(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    device = Device(checkpoint)
    refuse(monkeypatch, device, LARGE, SMALL)

    with pytest.raises(UnsupportedParameter, match="256x256 was not built"):
        device.measured(LARGE, SMALL)


@pytest.mark.usefixtures("clock")
def test_a_batch_that_finds_no_memory_is_not_measured(checkpoint: Path):
    """Neither in halves, which would be the time and the memory of smaller ones."""
    device = Device(checkpoint, memory_bytes=WEIGHTS_BYTES + 5 * PASS_BYTES)
    profile, plan = device.measured(LARGE), device.plan(LARGE)
    assert profile.step_s(plan.key, 4) == pytest.approx(H200_512PX[4])
    assert profile.peak_bytes.at(plan.key, plan.tokens, 8) == pytest.approx(8 * PASS_BYTES)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("fixed", "room_bytes"), [(False, PASS_BYTES - 1), (True, 4 * PASS_BYTES - 1)])
def test_a_device_without_room_for_its_smallest_step_stops_the_start(checkpoint: Path, fixed: bool, room_bytes: int):
    with pytest.raises(DeviceOutOfMemory):
        Device(checkpoint, memory_bytes=WEIGHTS_BYTES + room_bytes).measured(LARGE, max_batch=4, fixed=fixed)
