"""Costs by key and batch size: measured, interpolated, or read off a neighbour."""

import json
import math
from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve.engine.curves import MAX_KEYS, NEWEST, RECENT, TOO_HIGH, Curves
from tests.simulation import H200_512PX

counts = st.integers(1, 64)
values = st.floats(1e-3, 1e3)


def curves(**points: Mapping[int, float]) -> Curves:
    """Keys named after their tokens: `t100`."""
    made = Curves()
    for key, known in points.items():
        for passes, value in known.items():
            made.measured(key, int(key[1:]), passes, value)
    return made


def test_nothing_is_known_before_a_measurement():
    assert Curves().at("k", 100, 1) is None


@pytest.mark.parametrize(("passes", "seconds"), [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (6, 5.0), (8, 6.0)])
def test_between_two_batch_sizes_the_value_is_on_their_line(passes: int, seconds: float):
    assert curves(t100={1: 1.0, 4: 4.0, 8: 6.0}).at("t100", 100, passes) == pytest.approx(seconds)


def test_beyond_all_that_is_known_it_goes_on_as_between_the_last_two():
    known = curves(t100={2: 1.0, 4: 2.0})
    assert known.at("t100", 100, 8) == pytest.approx(4.0)
    assert known.at("t100", 100, 1) == pytest.approx(1.0)


def test_one_known_size_costs_in_proportion_to_the_batch():
    assert curves(t100={2: 1.0}).at("t100", 100, 6) == pytest.approx(3.0)


def test_a_key_that_was_never_measured_costs_what_the_nearest_does_by_tokens():
    known = curves(t100={1: 1.0, 2: 1.5}, t1000={1: 20.0, 2: 40.0})
    assert known.at("new", 200, 2) == pytest.approx(3.0)
    assert known.at("new", 900, 2) == pytest.approx(36.0)


def test_beyond_its_own_points_a_key_follows_the_shape_of_the_nearest():
    known = curves(t100={1: 1.0, 8: 2.0}, t150={1: 10.0})
    assert known.at("t150", 150, 8) == pytest.approx(20.0)
    assert known.at("t150", 150, 1) == pytest.approx(10.0)


def test_below_its_own_points_as_well():
    known = curves(t100={1: 1.0, 8: 4.0}, t150={8: 10.0})
    assert known.at("t150", 150, 1) == pytest.approx(2.5)


def test_of_equally_near_keys_the_one_measured_at_more_sizes_is_followed():
    known = curves(t100={1: 1.0})
    known.measured("rich", 100, 1, 1.0)
    known.measured("rich", 100, 8, 2.0)
    assert known.at("new", 100, 8) == pytest.approx(2.0)


def learned(known: Curves, *values: float, passes: int = 1) -> float | None:
    for value in values:
        known.learned("t100", 100, passes, value)
    return known.at("t100", 100, passes)


def test_a_measurement_counts_in_full_whatever_was_known():
    known = curves(t100={1: 1.0})
    known.measured("t100", 100, 1, 5.0)
    assert known.at("t100", 100, 1) == pytest.approx(5.0)


def test_what_is_learned_counts_by_its_weight():
    assert learned(curves(t100={1: 1.0}), 0.6) == pytest.approx(1.0 - NEWEST * 0.4)
    assert learned(curves(t100={1: 1.0}), *[1.5] * RECENT) == pytest.approx(1.0 + NEWEST * 0.5)


@pytest.mark.parametrize("values", [(60.0, 0.2), (0.2, 60.0)])
def test_of_the_first_two_at_a_place_the_lower_one_counts_and_none_before(values: tuple[float, float]):
    known = Curves()
    assert learned(known, values[0]) is None
    assert learned(known, values[1]) == pytest.approx(0.2)


def test_a_first_one_at_another_batch_size_leaves_what_its_neighbours_tell():
    assert learned(curves(t100={1: 1.0, 4: 4.0}), 60.0, passes=2) == pytest.approx(2.0)


@pytest.mark.parametrize("outlier", [1.1, 80.0, 1e9])
def test_those_that_are_higher_than_others_of_late_do_not_count(outlier: float):
    assert learned(curves(t100={1: 1.0}), 1.0, outlier, outlier, 1.0, outlier) == pytest.approx(1.0)


@pytest.mark.parametrize("outlier", [1.1, 80.0])
def test_a_first_one_that_is_higher_than_what_was_measured_does_not_count(outlier: float):
    assert learned(curves(t100={1: 1.0}), outlier, outlier) == pytest.approx(1.0)


def test_a_lasting_rise_is_learned_in_a_few_steps():
    risen = learned(curves(t100={1: 1.0}), *[10.0] * 6)
    assert risen is not None
    assert risen > 6.0


@pytest.mark.parametrize("believed", [3.0, 1e9])
def test_what_is_far_too_high_is_given_up_at_once(believed: float):
    """As after two that were too high, or where the start was measured on a bad day."""
    known = learned(curves(t100={1: believed}), 1.0)
    assert known is not None
    assert known <= TOO_HIGH


@given(st.dictionaries(counts, values, min_size=1, max_size=6), st.integers(1, 200), counts)
def test_within_what_was_measured_a_value_lies_between_its_neighbours(
    points: dict[int, float], tokens: int, passes: int
):
    known = curves(t100=points)
    known.measured("other", tokens, 3, 7.0)
    below = [points[size] for size in sorted(points) if size <= passes][-1:]
    above = [points[size] for size in sorted(points) if size >= passes][:1]
    value = known.at("t100", 100, passes)
    assert value is not None
    if below and above:
        assert min(below + above) - 1e-9 <= value <= max(below + above) + 1e-9


@given(
    st.dictionaries(st.integers(1, 5000), st.dictionaries(counts, values, min_size=1, max_size=4), max_size=5),
    st.integers(1, 5000),
    counts,
)
def test_what_was_dumped_and_loaded_tells_the_same(known: dict[int, dict[int, float]], tokens: int, passes: int):
    before, after = Curves(), Curves()
    for size, points in known.items():
        for at, value in points.items():
            before.measured(("family", size, ("a", True)), size, at, value)
    after.load(json.loads(json.dumps(before.dump())))
    assert after.at(("family", tokens, ("a", True)), tokens, passes) == before.at(
        ("family", tokens, ("a", True)), tokens, passes
    )
    assert after.known() == before.known()


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"key": "k", "tokens": 1},
        {"key": "k", "tokens": "many", "at": [[1, 1.0]]},
        {"key": {}, "tokens": 1, "at": [[1, 1.0]]},
    ],
)
def test_what_is_no_dump_is_refused(broken: dict[str, object]):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Curves().load([broken])


def test_keys_are_bounded_to_those_of_the_last_measurements():
    known = Curves()
    for tokens in range(1, MAX_KEYS + 10):
        known.measured(tokens, tokens, 1, 1.0)
        known.measured("kept", 1, 1, 1.0)
    assert len(known.known()) == MAX_KEYS
    assert ("kept", 1) in known.known()
    assert (1, 1) not in known.known()


def test_a_first_one_is_forgotten_after_those_of_many_other_places():
    known = Curves()
    for passes in range(1, MAX_KEYS + 10):
        learned(known, 1.0, passes=passes)
    assert learned(known, 1.0, passes=1) is None
    assert learned(known, 1.0, passes=MAX_KEYS) == pytest.approx(1.0)


def test_a_published_curve_is_told_as_it_is():
    known = curves(t1024=H200_512PX)
    assert [known.at("t1024", 1024, size) for size in H200_512PX] == pytest.approx(list(H200_512PX.values()))
    assert all(math.isfinite(known.at("t1024", 1024, size) or math.nan) for size in range(1, 65))
