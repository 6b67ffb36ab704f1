"""What queued work is expected to take."""

import pytest

from serve.engine.estimate import MAX_KEYS, NEWEST, StepTimes


def test_nothing_measured_expects_nothing():
    assert StepTimes().seconds({"a": 100}) == 0


def test_a_step_is_shared_by_its_rows():
    times = StepTimes()
    times.measured("a", rows=4, seconds=2.0)
    assert times.seconds({"a": 10}) == pytest.approx(10 * 0.5)


def test_each_key_has_its_own_cost_and_an_unknown_one_that_of_all():
    times = StepTimes()
    times.measured("small", rows=1, seconds=1.0)
    times.measured("large", rows=1, seconds=6.0)
    overall = 1.0 + NEWEST * (6.0 - 1.0)
    assert times.seconds({"small": 2, "large": 3, None: 4}) == pytest.approx(2 * 1.0 + 3 * 6.0 + 4 * overall)


def test_a_slow_first_step_is_forgotten():
    times = StepTimes()
    times.measured("a", rows=1, seconds=60.0)
    for _ in range(40):
        times.measured("a", rows=1, seconds=1.0)
    assert times.seconds({"a": 1}) == pytest.approx(1.0, rel=0.01)


def test_many_keys_leave_those_of_the_last_steps():
    times = StepTimes()
    times.measured("often", rows=1, seconds=1.0)
    for key in range(2 * MAX_KEYS):
        times.measured(key, rows=1, seconds=9.0)
        times.measured("often", rows=1, seconds=1.0)
    assert times.seconds({"often": 1}) == pytest.approx(1.0)
    assert times.seconds({0: 1}) == times.seconds({"never seen": 1})
