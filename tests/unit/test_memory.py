"""The room on the device: rows and the peak above them against a budget, and what running out teaches."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve.engine.memory import Room
from serve.engine.profile import Profile

KEY = "k"
ROW_BYTES, PASS_BYTES = 10.0, 100.0


def profile_of(max_batch: int = 16, fixed: bool = False) -> Profile:
    """A step of each batch size takes equally long, so that the largest is worth running."""
    profile = Profile(max_batch, fixed)
    profile.know(KEY, 1024)
    for passes in (1, max_batch):
        profile.seconds.measured(KEY, 1024, passes, 1.0)
        profile.peak_bytes.measured(KEY, 1024, passes, PASS_BYTES * passes)
    profile.row_bytes.measured(KEY, 1024, 1, ROW_BYTES)
    return profile


def test_without_a_measurement_everything_fits():
    room = Room(Profile(4, fixed=False), budget_bytes=1.0)
    assert room.ever(KEY, 4)
    assert room.for_more(KEY, 64)
    assert room.limit(KEY) == 4


def test_without_a_budget_everything_fits():
    room = Room(profile_of())
    assert room.ever(KEY, 16)
    assert room.for_more(KEY, 10**6)
    assert room.limit(KEY) == 16


def test_a_batch_is_as_large_as_the_budget_allows():
    assert Room(profile_of(), budget_bytes=450.0).limit(KEY) == 4


@given(budget=st.floats(0, 3000), held=st.lists(st.floats(0, 300), max_size=8))
def test_rows_and_the_peak_of_a_batch_stay_within_the_budget(budget: float, held: list[float]):
    room = Room(profile_of(), budget)
    for number, row_bytes in enumerate(held):
        room.hold(number, row_bytes)
    limit = room.limit(KEY)
    assert 1 <= limit <= 16
    assert limit == 1 or sum(held) + PASS_BYTES * limit <= budget + 1e-6
    assert limit == 16 or sum(held) + PASS_BYTES * (limit + 1) > budget - 1e-6


def test_more_rows_can_begin_while_a_step_of_one_still_fits_beside_them():
    room = Room(profile_of(), budget_bytes=PASS_BYTES + 3 * ROW_BYTES)
    assert [room.for_more(KEY, rows) for rows in (1, 3, 4)] == [True, True, False]
    room.hold(1, ROW_BYTES)
    assert [room.for_more(KEY, rows) for rows in (1, 2, 3)] == [True, True, False]


def test_a_row_that_has_ended_gives_its_memory_back():
    room = Room(profile_of(), budget_bytes=PASS_BYTES + ROW_BYTES)
    assert room.is_empty
    room.hold(1, ROW_BYTES)
    assert (room.is_empty, room.held_bytes, room.for_more(KEY, 1)) == (False, ROW_BYTES, False)
    room.free(1)
    room.free(1)
    assert (room.is_empty, room.held_bytes, room.for_more(KEY, 1)) == (True, 0.0, True)


@pytest.mark.parametrize("stage", ["encode_bytes", "decode_bytes"])
def test_encoding_and_decoding_need_room_as_a_step_does(stage: str):
    profile = profile_of()
    getattr(profile, stage).measured(KEY, 1024, 1, 900.0)
    room = Room(profile, budget_bytes=905.0)
    assert not room.ever(KEY, 1)
    room.budget_bytes = 911.0
    assert room.ever(KEY, 1)


@pytest.mark.parametrize(("budget", "rows"), [(1.0, 1), (620.0, 2), (math.inf, math.inf)])
@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_so_many_are_encoded_and_decoded_together_as_fit_beside_the_rows_held(stage: str, budget: float, rows: float):
    profile = profile_of()
    room = Room(profile, budget)
    room.hold(1, ROW_BYTES)
    together = getattr(room, f"{stage}d_together")
    assert together(KEY) == math.inf
    getattr(profile, f"{stage}_bytes").measured(KEY, 1024, 1, 300.0)
    assert rows <= together(KEY) < rows + 1 or together(KEY) == rows


def test_a_row_fits_ever_where_its_own_passes_do():
    room = Room(profile_of(), budget_bytes=2 * PASS_BYTES + ROW_BYTES)
    assert room.ever(KEY, 2)
    assert not room.ever(KEY, 3)


def test_a_row_wider_than_a_batch_needs_no_more_than_a_batch():
    room = Room(profile_of(max_batch=2), budget_bytes=2 * PASS_BYTES + ROW_BYTES)
    assert room.ever(KEY, 8)


def test_other_rows_do_not_change_what_ever_fits():
    room = Room(profile_of(), budget_bytes=PASS_BYTES + ROW_BYTES)
    room.hold(1, math.inf)
    assert room.ever(KEY, 1)


def test_where_every_call_is_filled_up_memory_does_not_make_batches_smaller():
    """A smaller one would come out with other bytes; all of its memory is counted for a row."""
    room = Room(profile_of(max_batch=4, fixed=True), budget_bytes=3 * PASS_BYTES)
    assert room.limit(KEY) == 4
    assert not room.ever(KEY, 1)
    assert room.peak_bytes(KEY, 1) == 4 * PASS_BYTES


def test_running_out_halves_the_batches_of_that_key_for_good():
    room = Room(profile_of())
    limits: list[int] = []
    for _ in range(6):
        room.ran_out(KEY, room.limit(KEY))
        limits.append(room.limit(KEY))
    assert limits == [8, 4, 2, 1, 1, 1]
    assert room.limit("other") == 16


def test_running_out_with_fewer_passes_than_the_limit_counts_from_those():
    room = Room(profile_of())
    room.ran_out(KEY, 6)
    assert room.limit(KEY) == 3
    room.ran_out(KEY, 16)
    assert room.limit(KEY) == 3
