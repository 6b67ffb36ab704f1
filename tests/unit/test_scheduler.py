"""The step scheduler against a plain model of what rows are, over many orders of events."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve.engine.policy import Batch, Row
from serve.engine.scheduler import TRIED, StepScheduler
from serve.types import Priority
from tests.simulation import Arrival, ExactCosts, simulate


def second_a_pass(key: object, passes: int) -> float:
    return float(passes)


def scheduler_of(limit: int = 1, resident_rows: int = 16) -> StepScheduler:
    return StepScheduler(ExactCosts(second_a_pass, limit), resident_rows=resident_rows)


def row(number: int, steps: int, key: str = "k", width: int = 1, priority: Priority = "normal") -> Row:
    return Row(number, number, key, steps, width, 0.0, priority)


def begun(scheduler: StepScheduler, *rows: Row) -> None:
    for one in rows:
        scheduler.add(one)
        scheduler.begin(one.id)


def ran(scheduler: StepScheduler, now_s: float = 0.0) -> tuple[int, ...]:
    batch = scheduler.schedule(now_s)
    assert batch is not None
    scheduler.advance(batch, float(batch.passes))
    return batch.rows


def test_the_row_with_the_least_left_to_do_runs_first():
    scheduler = scheduler_of()
    begun(scheduler, row(0, steps=20), row(1, steps=2))
    assert [ran(scheduler) for _ in range(4)] == [(1,), (1,), (0,), (0,)]


def test_rows_of_equal_work_run_in_the_order_they_came():
    scheduler = scheduler_of(limit=2)
    begun(scheduler, *(row(number, steps=1) for number in range(4)))
    assert [ran(scheduler), ran(scheduler)] == [(0, 1), (2, 3)]


def test_passes_count_as_work():
    scheduler = scheduler_of(limit=2)
    begun(scheduler, row(0, steps=30, width=2), row(1, steps=50))
    assert ran(scheduler) == (1,)


def test_a_row_that_would_end_too_late_runs_before_shorter_ones():
    scheduler = scheduler_of()
    begun(scheduler, row(0, steps=10))
    # It is due at 1.1 x 10 + 0.1 x 10 = 12 s: nothing may be before it from 1 s on.
    begun(scheduler, replace(row(1, steps=7), arrived_s=0.5))
    assert ran(scheduler, now_s=0.5) == (1,)
    begun(scheduler, replace(row(2, steps=7), arrived_s=1.5))
    assert [ran(scheduler, now_s=1.5 + step) for step in range(11)] == [(0,)] * 10 + [(1,)]


def test_a_row_that_is_quick_beside_the_others_runs_before_one_that_will_be_late():
    scheduler = scheduler_of()
    begun(scheduler, row(0, steps=10))
    begun(scheduler, replace(row(1, steps=7), arrived_s=4.0), replace(row(2, steps=1), arrived_s=4.0))
    assert [ran(scheduler, now_s=4.0 + step) for step in range(12)] == [(2,)] + [(0,)] * 10 + [(1,)]


def test_among_rows_that_are_all_equally_quick_the_first_that_came_runs_first_once_it_is_late():
    scheduler = scheduler_of()
    begun(scheduler, row(0, steps=3))
    begun(scheduler, replace(row(1, steps=3), arrived_s=1.0))
    assert [ran(scheduler, now_s=1.0 + step) for step in range(6)] == [(0,)] * 3 + [(1,)] * 3


def test_a_high_row_comes_next_and_a_low_one_last_even_where_all_are_quick_and_none_has_slack():
    scheduler = scheduler_of()
    scheduler.add(row(0, steps=1000))
    scheduler.cancel(0)
    rows = [row(1, 5), row(2, 5, priority="low"), row(3, 5), row(4, 5, priority="high")]
    begun(scheduler, *(replace(one, arrived_s=0.1 * number) for number, one in enumerate(rows)))
    assert [ran(scheduler, now_s=1.0 + step) for step in range(20)] == [
        (one,) for one in (4, 1, 3, 2) for _ in range(5)
    ]


def test_rows_of_higher_priority_run_first_while_there_is_slack():
    scheduler = scheduler_of()
    begun(scheduler, row(0, 2, priority="low"), row(1, 40, priority="normal"), row(2, 5, priority="high"))
    assert ran(scheduler) == (2,)
    scheduler.cancel(2)
    assert ran(scheduler) == (1,)


def test_a_row_that_does_not_fit_leaves_its_place_to_a_narrower_one():
    scheduler = scheduler_of(limit=4)
    begun(scheduler, row(0, 1, width=3), row(1, 20, width=2), row(2, 60))
    assert ran(scheduler) == (0, 2)


def test_a_row_wider_than_the_batch_runs_by_itself():
    scheduler = scheduler_of()
    begun(scheduler, row(0, 1, width=2), row(1, 40))
    assert ran(scheduler) == (0,)


def test_keys_take_turns():
    scheduler = scheduler_of(limit=2)
    begun(scheduler, row(0, 9, "a"), row(1, 9, "a"), row(2, 2, "b"), row(3, 2, "b"))
    assert [ran(scheduler) for _ in range(5)] == [(0, 1), (2, 3), (0, 1), (2, 3), (0, 1)]


def test_a_key_that_has_rows_begun_runs_while_the_one_in_turn_waits_for_memory():
    scheduler = scheduler_of(resident_rows=1)
    scheduler.add(row(0, 5, "a"))
    begun(scheduler, row(1, 2, "b"))
    assert scheduler.admit(0.0) == ()
    assert [ran(scheduler), ran(scheduler)] == [(1,), (1,)]
    assert scheduler.admit(0.0) == (0,)


def test_memory_is_kept_for_the_key_in_turn():
    scheduler = scheduler_of(limit=2, resident_rows=2)
    scheduler.add(row(0, 5, "a"))
    scheduler.add(row(1, 5, "b"))
    assert scheduler.admit(0.0) == (0,)


def test_a_finished_row_frees_its_slot():
    scheduler = scheduler_of(limit=2, resident_rows=2)
    begun(scheduler, row(0, 1), row(1, 30))
    scheduler.add(row(2, 30))
    assert scheduler.admit(0.0) == ()
    assert scheduler.advance(Batch("k", (0, 1), 2), 1.0) == (0,)
    assert scheduler.admit(0.0) == (2,)


def test_a_row_is_not_begun_while_shorter_ones_fill_the_batch():
    scheduler = scheduler_of(limit=2)
    begun(scheduler, row(0, 2), row(1, 2))
    scheduler.add(row(2, 50))
    assert scheduler.admit(0.0) == ()


def test_a_short_row_is_begun_before_longer_ones_finish():
    scheduler = scheduler_of(limit=2)
    begun(scheduler, row(0, 90), row(1, 90))
    scheduler.add(row(2, 1))
    assert scheduler.admit(0.0) == (2,)


def test_a_row_cancelled_during_its_step_does_not_finish():
    scheduler = scheduler_of(limit=2)
    begun(scheduler, row(0, 1), row(1, 1))
    batch = scheduler.schedule(0.0)
    assert batch is not None
    scheduler.cancel(0)
    assert scheduler.advance(batch, 1.0) == (1,)


# Deadlines


def limited(number: int, steps: int, deadline_s: float) -> Row:
    return replace(row(number, steps), deadline_s=deadline_s)


def test_an_only_job_is_not_given_up_for_an_estimate():
    scheduler = scheduler_of()
    begun(scheduler, limited(0, steps=1000, deadline_s=50.0))
    assert scheduler.hopeless(50.0) == []
    assert scheduler.hopeless(50.1) == [0]


def test_an_only_job_is_given_up_once_steps_of_its_own_show_that_it_cannot_end():
    scheduler = scheduler_of()
    begun(scheduler, limited(0, steps=1000, deadline_s=50.0))
    for step in range(TRIED):
        assert scheduler.hopeless(float(step)) == []
        ran(scheduler)
    assert scheduler.hopeless(float(TRIED)) == [0]


def test_an_only_job_is_not_given_up_for_a_slow_step_among_its_own():
    scheduler = scheduler_of()
    begun(scheduler, limited(0, steps=10, deadline_s=100.0))
    for seconds in (80.0, 1.0, 1.0):
        scheduler.advance(Batch("k", (0,), 1), seconds)
    assert scheduler.hopeless(82.0) == []


def test_rows_that_have_stepped_are_not_given_up_for_an_estimate_that_is_slower_than_their_steps():
    expected_s = [1.0]
    scheduler = StepScheduler(ExactCosts(lambda key, passes: expected_s[0], 2), resident_rows=2)
    begun(scheduler, limited(0, steps=10, deadline_s=12.0), limited(1, steps=10, deadline_s=12.0))
    scheduler.add(limited(2, steps=10, deadline_s=20.0))
    scheduler.advance(Batch("k", (0, 1), 2), 1.0)
    expected_s[0] = 5.0
    assert scheduler.hopeless(1.0) == [2]


# Long queues


def test_a_forecast_of_a_long_queue_stops_looking_at_it_batch_for_batch():
    asked = 0

    def counted(key: object, passes: int) -> float:
        nonlocal asked
        asked += 1
        return 1.0

    scheduler = StepScheduler(ExactCosts(counted, 1), resident_rows=4)
    for number in range(1000):
        scheduler.add(row(number, steps=10))
    asked = 0
    ahead, seconds = scheduler.forecast([row(1000, steps=10)], 0.0)
    assert (ahead, seconds) == (1001, 10_010.0)
    assert asked < 200


def test_a_forecast_of_a_long_queue_is_good_to_a_tenth():
    told: list[tuple[int, float]] = []
    arrivals = [Arrival(0.0, steps=1 + 7 * number % 6) for number in range(260)]
    scheduler = scheduler_of()

    def ask(rows: Sequence[Row], now_s: float) -> None:
        if rows[0].job == len(arrivals) - 1:
            told.append(scheduler.forecast(rows, now_s))

    history = simulate(scheduler, arrivals, second_a_pass, ask)
    (_, seconds) = told[0]
    assert seconds == pytest.approx(history.ended_s[len(arrivals) - 1], rel=0.1)


@dataclass
class Known:
    """What the test knows of a row."""

    row: Row
    state: str = "waiting"
    ran: int = 0
    quickest_s: float = math.inf

    @property
    def left(self) -> int:
        return self.row.steps - self.ran

    def least_s(self, alone: bool) -> float:
        """Of what is left: a second a pass as expected, unless it was quicker; alone, nothing but what it has shown."""
        shown = not alone or self.ran >= TRIED
        return self.left * min(self.row.width, self.quickest_s) if shown else 0.0


class Schedules(RuleBasedStateMachine):
    """Rows come, begin, run and are cancelled in any order; at the end everything left is run out.

    Steps take what they take, which is not what they were expected to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.resident_rows = 3, 5
        self.scheduler = scheduler_of(self.limit, self.resident_rows)
        self.rows: dict[int, Known] = {}
        self.now_s = 0.0

    def those(self, *states: str) -> set[int]:
        return {number for number, known in self.rows.items() if known.state in states}

    @rule(
        steps=st.integers(1, 12),
        width=st.sampled_from([1, 1, 2, 5]),
        key=st.sampled_from("abc"),
        priority=st.sampled_from(["low", "normal", "high"]),
        time_s=st.sampled_from([math.inf, 5.0, 100.0]),
        count=st.integers(1, 3),
    )
    def add(self, steps: int, width: int, key: str, priority: Priority, time_s: float, count: int) -> None:
        job = len(self.rows)
        numbers = range(job, job + count)
        rows = [
            Row(number, job, key, steps, width, self.now_s, priority, self.now_s + time_s, (steps,))
            for number in numbers
        ]
        ahead, seconds = self.scheduler.forecast(rows, self.now_s)
        assert self.scheduler.forecast(rows, self.now_s) == (ahead, seconds)
        assert 0 <= ahead <= 1 + len({self.rows[number].row.job for number in self.those("waiting")})
        assert seconds >= steps * min(width, self.limit)
        for one in rows:
            self.rows[one.id] = Known(one)
            self.scheduler.add(one)

    @rule()
    def admit(self) -> None:
        self.admitted()

    def admitted(self) -> bool:
        admitted = self.scheduler.admit(self.now_s)
        assert self.scheduler.admit(self.now_s) == admitted
        if not admitted:
            # Nothing is held back from an empty machine.
            assert self.those("resident") or not self.those("waiting")
        assert len({self.rows[number].row.key for number in admitted}) <= 1
        for number in admitted:
            assert self.rows[number].state == "waiting"
            self.rows[number].state = "resident"
            self.scheduler.begin(number)
        return bool(admitted)

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.rows)))
        self.scheduler.cancel(number)
        if self.rows[number].state != "finished":
            self.rows[number].state = "cancelled"

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(key=st.sampled_from("abc"), seconds=st.sampled_from([0.1, 2.0]))
    def work_beside(self, key: str, seconds: float) -> None:
        self.scheduler.charge(key, seconds)

    @rule(data=st.data(), seconds=st.sampled_from([0.2, 1.0, 3.0, 20.0]))
    def step(self, data: st.DataObject, seconds: float) -> None:
        batch = self.checked_batch()
        if batch is None:
            return
        if data.draw(st.booleans()):
            self.cancel(data)
        self.advance(batch, seconds)

    def checked_batch(self) -> Batch | None:
        batch = self.scheduler.schedule(self.now_s)
        assert self.scheduler.schedule(self.now_s) == batch
        if batch is None:
            assert not self.those("resident")
            return None
        rows = [self.rows[number] for number in batch.rows]
        assert len(set(batch.rows)) == len(batch.rows) > 0
        assert {one.state for one in rows} == {"resident"}
        assert {one.row.key for one in rows} == {batch.key}
        assert sum(one.row.width for one in rows) == batch.passes
        assert batch.passes <= self.limit or len(rows) == 1
        left_out = [self.rows[number].row for number in self.those("resident") - set(batch.rows)]
        assert all(one.width > self.limit - batch.passes for one in left_out if one.key == batch.key)
        return batch

    def advance(self, batch: Batch, seconds: float) -> None:
        finished = self.scheduler.advance(batch, seconds)
        self.now_s += seconds
        over: set[int] = set()
        for number in batch.rows:
            known = self.rows[number]
            known.ran += 1
            known.quickest_s = min(known.quickest_s, seconds)
            if known.state == "resident" and not known.left:
                over.add(number)
                known.state = "finished"
        assert len(finished) == len(set(finished))
        assert set(finished) == over

    @invariant()
    def every_row_is_where_it_should_be(self) -> None:
        assert self.scheduler.waiting_rows == len(self.those("waiting"))
        assert self.scheduler.running_rows == len(self.those("resident")) <= self.resident_rows
        passes = sum(one.left * one.row.width for one in self.rows.values() if one.state in ("waiting", "resident"))
        assert math.isclose(self.scheduler.queued_s(), passes)

    @invariant()
    def hopeless_are_those_that_could_not_make_it_if_they_ran_now(self) -> None:
        live = [self.rows[number] for number in self.those("waiting", "resident")]
        alone = len({known.row.job for known in live}) == 1
        late = {known.row.id for known in live if self.now_s + known.least_s(alone) > known.row.deadline_s}
        told = self.scheduler.hopeless(self.now_s)
        assert sorted(told) == sorted(late)

    def teardown(self) -> None:
        while True:
            while self.admitted():
                pass
            batch = self.checked_batch()
            if batch is None:
                break
            self.advance(batch, 1.0)
        assert not self.those("waiting")
        assert all(known.left == 0 for known in self.rows.values() if known.state == "finished")


Schedules.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySchedule = Schedules.TestCase
