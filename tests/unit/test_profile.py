"""The profile: how large a batch is worth running, how it learns, and what is left of it for the next start."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from serve.engine.profile import FORMAT, KNEE_REFRESH, Profile
from tests.simulation import H200_512PX, LINEAR_STEP_S

LINEAR = {size: LINEAR_STEP_S * size for size in (1, 2, 4, 8, 16)}
KEY = ("family", 512, 512)


def profile_of(table: Mapping[int, float], max_batch: int = 16, fixed: bool = False) -> Profile:
    profile = Profile(max_batch, fixed)
    profile.know(KEY, 1024)
    for passes, seconds in table.items():
        profile.seconds.measured(KEY, 1024, passes, seconds)
    return profile


@pytest.mark.parametrize(
    ("table", "knee"),
    [(H200_512PX, 8), (LINEAR, 1), ({1: 1.0, 16: 1.0}, 16), ({1: 1.0, 2: 1.0, 4: 2.0, 16: 8.0}, 2)],
)
def test_the_knee_is_the_smallest_batch_that_nearly_reaches_the_best_throughput(table: Mapping[int, float], knee: int):
    assert profile_of(table).knee(KEY) == knee


def test_no_batch_is_worth_more_than_the_model_takes():
    assert profile_of(H200_512PX, max_batch=4).knee(KEY) == 4


def test_where_every_call_is_filled_up_all_of_it_is_used():
    profile = profile_of({4: 1.0}, max_batch=4, fixed=True)
    assert profile.knee(KEY) == 4
    assert [profile.step_s(KEY, passes) for passes in (1, 4, 5)] == pytest.approx([1.0, 1.0, 2.0])


def test_before_any_measurement_batches_are_full_and_steps_take_no_time():
    profile = Profile(8, fixed=False)
    assert profile.knee(KEY) == 8
    assert profile.step_s(KEY, 3) == 0.0
    assert profile.measured_keys() == []


def test_a_key_that_was_not_measured_has_the_knee_of_the_nearest():
    profile = profile_of(H200_512PX)
    profile.know("new", 2048)
    assert profile.knee("new") == 8
    assert profile.step_s("new", 8) == pytest.approx(2 * H200_512PX[8])


def test_a_device_that_becomes_slower_is_believed_after_some_steps():
    profile = profile_of(H200_512PX)
    for _ in range(15):
        profile.stepped(KEY, 8, 2.0)
    assert profile.step_s(KEY, 8) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("seconds", [2.0, 80.0])
def test_one_slow_step_is_not_believed(seconds: float):
    profile = profile_of({1: 1.0})
    profile.stepped(KEY, 1, seconds)
    assert profile.step_s(KEY, 1) <= 1.25


def test_the_first_step_of_a_size_in_which_it_is_compiled_is_not_believed():
    profile = Profile(4, fixed=False)
    profile.know(KEY, 1024)
    profile.stepped(KEY, 1, 80.0)
    assert profile.step_s(KEY, 1) == 0.0
    profile.stepped(KEY, 1, 0.2)
    assert profile.step_s(KEY, 1) == pytest.approx(0.2)


def test_a_curve_that_changes_moves_the_knee_within_some_steps():
    profile = profile_of(LINEAR)
    assert profile.knee(KEY) == 1
    for _ in range(20):
        for passes in LINEAR:
            profile.stepped(KEY, passes, LINEAR_STEP_S)
    assert [profile.knee(KEY) for _ in range(KNEE_REFRESH + 1)][-1] == 16


def test_steps_that_are_now_and_then_slow_leave_the_knee_where_it_is():
    """Other sizes, which have not run since, would look better than they are."""
    profile = profile_of({passes: passes + 0.02 for passes in LINEAR})
    luck = random.Random(0)
    knees: set[int] = set()
    for _ in range(100 * KNEE_REFRESH):
        profile.stepped(KEY, 1, 1.02 * luck.choice([1.0] * 7 + [1.2]))
        knees.add(profile.knee(KEY))
    assert knees == {1}


def test_what_is_saved_is_loaded(tmp_path: Path):
    profile = profile_of(H200_512PX)
    for curve in (profile.peak_bytes, profile.row_bytes, profile.encode_s, profile.decode_s):
        curve.measured(KEY, 1024, 1, 5.0)
    profile.encode_bytes.measured(KEY, 1024, 1, 6.0)
    profile.decode_bytes.measured(KEY, 1024, 1, 7.0)
    profile.save(tmp_path / "below" / "profile.json")

    loaded = Profile(16, fixed=False)
    assert loaded.load(tmp_path / "below" / "profile.json")

    assert loaded.measured_keys() == [KEY]
    assert (loaded.tokens(KEY), loaded.knee(KEY)) == (1024, 8)
    assert [loaded.step_s(KEY, size) for size in range(1, 17)] == [profile.step_s(KEY, size) for size in range(1, 17)]
    for name in ("peak_bytes", "row_bytes", "encode_s", "decode_s", "encode_bytes", "decode_bytes"):
        assert getattr(loaded, name).at(KEY, 1024, 1) == getattr(profile, name).at(KEY, 1024, 1)
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["profile.json"]


def test_a_file_that_is_not_there_is_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert not Profile(16, fixed=False).load(tmp_path / "profile.json")
    assert caplog.records == []


@pytest.mark.parametrize("kept", ["", "{", "[]", "{}", '{"format": 0}', f'{{"format": {FORMAT}}}', '"text"', "\x00"])
def test_a_broken_file_is_not_used(tmp_path: Path, kept: str):
    path = tmp_path / "profile.json"
    path.write_text(kept)
    assert not Profile(16, fixed=False).load(path)


@pytest.mark.parametrize(
    "curve", [[{"key": "k"}], {"key": "k"}, [[1, 2]], [{"key": "k", "tokens": 0, "at": [[1, "soon"]]}], None]
)
def test_a_file_with_a_broken_curve_is_not_used_and_said_so(
    tmp_path: Path, curve: object, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "profile.json"
    profile_of(H200_512PX).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": curve}))
    assert not Profile(16, fixed=False).load(path)
    assert "is not used" in caplog.text


def test_nothing_of_a_broken_file_is_left_in_the_profile(tmp_path: Path):
    path = tmp_path / "profile.json"
    profile_of(H200_512PX).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "decode_bytes": "broken"}))
    profile = Profile(16, fixed=False)
    assert not profile.load(path)
    assert profile.step_s(KEY, 1) == 0.0


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("not a folder")
    profile_of(H200_512PX).save(tmp_path / "file" / "profile.json")
    assert "cannot be kept" in caplog.text
