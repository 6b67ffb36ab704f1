"""From settings to an engine: what a start measures, and what it finds in the folder of an earlier one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoints import flux_kontext_configurations
from serve.engine.load import load_engine
from serve.settings import ModelSettings, SimulatedSettings
from tests.unit.test_measure import Clock


@pytest.fixture(autouse=True)
def _thread_count_is_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> ModelSettings:
    return ModelSettings(
        id="m",
        family="flux_kontext",
        weights=str(flux_kontext_configurations(tmp_path / "checkpoint")),
        backend="simulated",
        simulated=SimulatedSettings(timings="h200-512px", speed=10.0),
        max_batch=2,
        threads=1,
        profile_s=1.0,
    )


def calls_of_a_start(model: ModelSettings, folder: Path, clock: Clock) -> int:
    """Calls of the device that took time."""
    before = len(clock.slept)
    load_engine(model, folder).drain(0.0)
    return len(clock.slept) - before


def test_the_first_start_measures_and_the_next_reads_what_it_left(model: ModelSettings, tmp_path: Path, clock: Clock):
    assert calls_of_a_start(model, tmp_path / "cache", clock) > 0
    assert [path.suffix for path in (tmp_path / "cache" / "profiles").iterdir()] == [".json"]
    assert calls_of_a_start(model, tmp_path / "cache", clock) == 0


@pytest.mark.parametrize(
    "change", [{"max_batch": 1}, {"precision": "bfloat16"}, {"simulated": SimulatedSettings(timings="h200", speed=50)}]
)
def test_what_changes_the_costs_is_measured_anew(
    model: ModelSettings, tmp_path: Path, clock: Clock, change: dict[str, object]
):
    calls_of_a_start(model, tmp_path / "cache", clock)
    assert calls_of_a_start(model.model_copy(update=change), tmp_path / "cache", clock) > 0
    assert calls_of_a_start(model, tmp_path / "cache", clock) == 0


@pytest.mark.parametrize("change", [{"id": "other"}, {"max_queued_rows": 3}, {"batching": "none"}])
def test_what_does_not_change_them_is_not(
    model: ModelSettings, tmp_path: Path, clock: Clock, change: dict[str, object]
):
    calls_of_a_start(model, tmp_path / "cache", clock)
    assert calls_of_a_start(model.model_copy(update=change), tmp_path / "cache", clock) == 0


def test_a_broken_profile_is_measured_anew_and_replaced(model: ModelSettings, tmp_path: Path, clock: Clock):
    calls_of_a_start(model, tmp_path / "cache", clock)
    (kept,) = (tmp_path / "cache" / "profiles").iterdir()
    whole = kept.read_text()
    kept.write_text(whole[: len(whole) // 2])
    assert calls_of_a_start(model, tmp_path / "cache", clock) > 0
    assert calls_of_a_start(model, tmp_path / "cache", clock) == 0


def test_without_time_to_measure_nothing_is_measured_or_kept(model: ModelSettings, tmp_path: Path, clock: Clock):
    assert calls_of_a_start(model.model_copy(update={"profile_s": 0.0}), tmp_path / "cache", clock) == 0
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_costs_the_next_start_its_measurements(
    model: ModelSettings, tmp_path: Path, clock: Clock
):
    (tmp_path / "cache").write_text("not a folder")
    assert calls_of_a_start(model, tmp_path / "cache", clock) > 0
    assert calls_of_a_start(model, tmp_path / "cache", clock) > 0
