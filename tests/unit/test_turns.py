"""Turns: keys that always have rows get equal time of the device, whatever a step was expected to take."""

import math
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import accumulate, combinations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve.engine.turns import Turns

STEP_S = st.floats(0.01, 5.0)


def entered(*keys: str, step_s: float = 1.0) -> Turns:
    turns = Turns()
    for key in keys:
        turns.enter(key, step_s)
    return turns


def ran(turns: Turns, steps: int, **seconds: float) -> str:
    """The keys of so many steps, each of which takes what its key takes."""
    order = ""
    for _ in range(steps):
        key = str(turns.front())
        turns.step(key, seconds[key])
        order += key
    return order


def widest_gap_s(order: Sequence[tuple[str, float]], one: str, other: str) -> float:
    """The most by which one key got more than the other in any interval between two steps. order: keys and seconds."""
    leads = list(accumulate(({one: 1, other: -1}.get(key, 0) * seconds for key, seconds in order), initial=0.0))
    return max(abs(end - start) for index, start in enumerate(leads) for end in leads[index:])


def test_keys_of_equal_steps_alternate():
    assert ran(entered("a", "b", "c"), 7, a=1.0, b=1.0, c=1.0) == "abcabca"


def test_a_key_of_quick_steps_makes_more_of_them_in_its_turn():
    assert ran(entered("a", "b"), 10, a=1.0, b=0.25) == "abbbbabbbb"


def test_the_key_in_turn_stays_while_nobody_steps():
    turns = entered("a", "b")
    assert [turns.front() for _ in range(4)] == ["a"] * 4


@given(expected=st.lists(STEP_S, min_size=2, max_size=4), data=st.data())
def test_over_any_interval_two_keys_differ_by_a_quantum_and_two_of_the_longest_steps_at_most(
    expected: list[float], data: st.DataObject
):
    """The bound of deficit round robin (Shreedhar and Varghese 1995). Steps take what they take: what was
    expected of them was a guess. A quantum is a step, so as long as any."""
    keys = "abcd"[: len(expected)]
    turns = Turns()
    for key, step_s in zip(keys, expected, strict=True):
        turns.enter(key, step_s)
    real = {key: data.draw(STEP_S) for key in keys}
    order: list[tuple[str, float]] = []
    for _ in range(60):
        key = str(turns.front())
        turns.step(key, real[key])
        order.append((key, real[key]))
    quantum_s = max(*expected, *real.values())
    for one, other in combinations(keys, 2):
        assert widest_gap_s(order, one, other) <= quantum_s + 2 * max(real.values()) + 1e-9


@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.01, 2.0)), min_size=60, max_size=60))
def test_steps_that_vary_are_shared_as_well(seconds: list[tuple[float, float]]):
    turns = entered("a", "b", step_s=2.0)
    order: list[tuple[str, float]] = []
    for pair in seconds:
        key = str(turns.front())
        order.append((key, pair["ab".index(key)]))
        turns.step(*order[-1])
    assert widest_gap_s(order, "a", "b") <= 2 * (2.0 + 2.0)  # whoever comes first in a round may change


def test_one_step_that_took_long_does_not_make_turns_long():
    """As a first one does, in which kernels are chosen or compiled."""
    turns = entered("a")
    turns.step("a", 60.0)
    turns.enter("b", 0.2)
    assert "b" in ran(turns, 3, a=0.2, b=0.2)


def test_work_beside_the_steps_is_charged():
    turns = entered("a", "b")
    turns.front()
    turns.charge("a", 2.5)
    assert ran(turns, 5, a=1.0, b=1.0) == "bbaba"


def test_a_key_alone_is_not_charged():
    turns = entered("a")
    assert ran(turns, 3, a=1.0) == "aaa"
    turns.charge("a", 100.0)
    turns.enter("b", 1.0)
    assert ran(turns, 4, a=1.0, b=1.0) == "abab"


def test_whoever_is_left_alone_starts_anew():
    turns = entered("a", "b")
    turns.front()
    turns.charge("a", 100.0)
    turns.leave("b")
    turns.enter("b", 1.0)
    assert ran(turns, 4, a=1.0, b=1.0) == "abab"


def test_a_key_that_comes_back_has_no_debt():
    turns = entered("a", "b", "c")
    turns.front()
    turns.charge("a", 100.0)
    turns.leave("a")
    turns.enter("a", 1.0)
    assert ran(turns, 6, a=1.0, b=1.0, c=1.0) == "bcabca"


def test_a_key_that_comes_back_has_saved_nothing():
    turns = entered("a", "b", step_s=5.0)
    assert ran(turns, 1, a=1.0) == "a"
    turns.leave("a")
    assert ran(turns, 50, b=1.0) == "b" * 50
    turns.enter("a", 1.0)
    order = ran(turns, 20, a=1.0, b=1.0)
    assert abs(order.count("a") - order.count("b")) <= 1


def test_a_key_that_leaves_after_every_step_gets_no_more_than_those_that_stay():
    turns, order = entered("a", "b"), ""
    for _ in range(40):
        key = ran(turns, 1, a=1.0, b=1.0)
        order += key
        if key == "b":
            turns.leave("b")
            turns.enter("b", 1.0)
    assert order == "ab" * 20


def test_a_key_in_debt_goes_without_until_it_is_paid():
    turns = entered("a", "b", "c")
    turns.front()
    turns.charge("a", 4.0)
    assert ran(turns, 9, a=1.0, b=1.0, c=1.0) == "bcbcbcbca"


def test_a_debt_of_all_is_paid_at_once():
    """However deep: it must not take a round for every second."""
    turns = entered("a", "b")
    turns.front()
    turns.charge("a", 1e12)
    turns.charge("b", 1e12 + 1)
    assert turns.front() == "a"


@contextmanager
def ended_within(seconds: float) -> Generator[None]:
    """Fails what goes on for ever."""

    def fail(*_: object) -> None:
        raise AssertionError(f"it has not ended within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("step_s", "rounds"), [(0.4143725679008442, 12), (0.029672006470510374, 3)])
def test_a_debt_that_rounding_leaves_at_nothing_is_paid(step_s: float, rounds: int):
    """A debt of so many steps, divided by a step, comes out as a little less than that many."""
    debt_s = rounds * step_s
    assert -debt_s + (math.floor(debt_s / step_s) + 1) * step_s == 0.0
    turns = entered("a", "b", step_s=step_s)
    turns.charge("a", debt_s)
    turns.charge("b", debt_s + 1)
    with ended_within(10.0):
        assert turns.front() == "a"


def test_steps_that_take_no_time_do_not_stop_the_turns():
    turns = entered("a", "b", step_s=0.0)
    assert set(ran(turns, 4, a=0.0, b=0.0)) <= {"a", "b"}


def test_a_step_of_a_key_that_has_left_is_nobodys():
    turns = entered("a", "b")
    turns.front()
    turns.leave("a")
    turns.step("a", 100.0)
    turns.charge("a", 100.0)
    turns.enter("a", 1.0)
    assert ran(turns, 4, a=1.0, b=1.0) == "baba"
