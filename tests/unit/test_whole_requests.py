"""Whole-request batching: equal parameters run through together, and nothing joins on the way."""

import math
from collections.abc import Hashable
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve.engine.policy import Row
from serve.engine.whole_requests import WholeRequests, equal_parameters, one_job
from tests.simulation import Arrival, ExactCosts, linear, simulate

STEP_S = 1.0


def second_a_call(key: Hashable, passes: int) -> float:
    return STEP_S


def requests(max_batch: int = 4) -> WholeRequests:
    return WholeRequests(ExactCosts(second_a_call, max_batch), max_batch=max_batch, group=equal_parameters)


def row(number: int, steps: int = 2, parameters: str = "p", job: int | None = None, width: int = 1) -> Row:
    return Row(number, number if job is None else job, "k", steps, width, 0.0, parameters=parameters)


def added(scheduler: WholeRequests, *rows: Row) -> None:
    for one in rows:
        scheduler.add(one)


def begun(scheduler: WholeRequests) -> tuple[int, ...]:
    rows = scheduler.admit(0.0)
    for one in rows:
        scheduler.begin(one)
    return rows


def ran(scheduler: WholeRequests) -> tuple[int, ...]:
    """The rows that finished with the next step."""
    batch = scheduler.schedule(0.0)
    assert batch is not None
    return scheduler.advance(batch, STEP_S)


def test_rows_of_equal_parameters_run_together():
    scheduler = requests()
    added(scheduler, row(0), row(1, parameters="q"), row(2), replace(row(3), key="other"))
    assert begun(scheduler) == (0, 2)
    assert [ran(scheduler), ran(scheduler)] == [(), (0, 2)]
    assert begun(scheduler) == (1,)


def test_nothing_joins_on_the_way():
    scheduler = requests()
    added(scheduler, row(0))
    begun(scheduler)
    added(scheduler, row(1))
    assert begun(scheduler) == ()
    assert [ran(scheduler), ran(scheduler)] == [(), (0,)]
    assert begun(scheduler) == (1,)


def test_whoever_came_first_runs_however_short_the_others_are():
    scheduler = requests()
    added(scheduler, row(0, 50, "long"), row(1, 1, "short"))
    assert begun(scheduler) == (0,)


def test_no_more_passes_run_together_than_a_batch_takes():
    scheduler = requests()
    added(scheduler, *(row(number, width=2) for number in range(3)))
    assert begun(scheduler) == (0, 1)


def test_a_row_wider_than_a_batch_runs_by_itself():
    scheduler = requests(max_batch=1)
    added(scheduler, row(0, width=2), row(1))
    assert begun(scheduler) == (0,)
    batch = scheduler.schedule(0.0)
    assert batch is not None
    assert batch.passes == 2


def test_one_job_at_a_time_never_mixes_jobs():
    scheduler = WholeRequests(ExactCosts(second_a_call, 4), max_batch=4, group=one_job)
    added(scheduler, row(0, job=0), row(1, job=0), row(2, job=2))
    assert begun(scheduler) == (0, 1)


def test_nothing_runs_before_all_that_run_together_are_begun():
    scheduler = requests()
    added(scheduler, row(0), row(1))
    assert scheduler.admit(0.0) == (0, 1)
    scheduler.begin(0)
    assert scheduler.schedule(0.0) is None
    assert scheduler.admit(0.0) == (1,)
    scheduler.begin(1)
    assert scheduler.schedule(0.0) == scheduler.schedule(0.0)
    assert scheduler.schedule(0.0) is not None


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_row_cancelled_in_its_batch_leaves_the_others_to_their_end(cancelled: int):
    scheduler = requests()
    added(scheduler, row(0), row(1), row(2, parameters="q"))
    begun(scheduler)
    batch = scheduler.schedule(0.0)
    assert batch is not None
    scheduler.cancel(cancelled)
    assert scheduler.advance(batch, STEP_S) == ()
    assert ran(scheduler) == (1 - cancelled,)
    assert begun(scheduler) == (2,)


def test_a_batch_of_which_all_are_cancelled_makes_room_for_the_next():
    scheduler = requests()
    added(scheduler, row(0), row(1, parameters="q"))
    begun(scheduler)
    scheduler.cancel(0)
    assert (scheduler.waiting_rows, scheduler.running_rows) == (1, 0)
    assert begun(scheduler) == (1,)


def test_a_cancelled_row_that_is_unknown_changes_nothing():
    scheduler = requests()
    added(scheduler, row(0))
    scheduler.cancel(7)
    assert scheduler.waiting_rows == 1


def test_rows_that_cannot_end_in_their_time_are_named():
    scheduler = WholeRequests(ExactCosts(second_a_call, 1), max_batch=1, group=one_job)
    added(scheduler, replace(row(0, steps=5), deadline_s=4.9), replace(row(1, steps=5), deadline_s=5.0), row(2))
    assert scheduler.hopeless(0.0) == [0]
    assert scheduler.hopeless(0.1) == [0, 1]


def test_an_only_jobs_time_is_given_the_benefit_of_the_doubt():
    scheduler = WholeRequests(ExactCosts(second_a_call, 1), max_batch=1, group=one_job)
    added(scheduler, replace(row(0, steps=10), deadline_s=1.0))
    assert scheduler.hopeless(1.0) == []
    assert scheduler.hopeless(1.1) == [0]


def test_the_forecast_of_one_request_at_a_time_is_what_happens():
    scheduler = WholeRequests(ExactCosts(linear, 1), max_batch=1, group=one_job)
    told: list[tuple[int, float, float]] = []
    arrivals = [Arrival(0.0, 5), Arrival(0.1, 7, rows=2), Arrival(0.2, 3)]
    history = simulate(
        scheduler, arrivals, linear, lambda rows, now_s: told.append((*scheduler.forecast(rows, now_s), now_s))
    )
    assert [place for place, _, _ in told] == [0, 1, 2]
    for job, (_, seconds, now_s) in enumerate(told):
        assert history.ended_s[job] == pytest.approx(now_s + seconds)


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from("pq"), st.integers(1, 3)), min_size=1, max_size=12))
def test_every_row_runs_all_its_steps_once(wanted: list[tuple[int, str, int]]):
    scheduler = requests()
    rows = [
        row(number, steps, f"{parameters}{steps}", width=width)
        for number, (steps, parameters, width) in enumerate(wanted)
    ]
    added(scheduler, *rows)
    expected_s = sum(one.steps * one.width for one in rows) / 4
    assert math.isclose(scheduler.queued_s(), expected_s)
    steps_run = dict.fromkeys(range(len(rows)), 0)
    finished: list[int] = []
    while scheduler.waiting_rows or scheduler.running_rows:
        begun(scheduler)
        batch = scheduler.schedule(0.0)
        assert batch is not None
        assert len({(rows[number].key, rows[number].parameters) for number in batch.rows}) == 1
        for number in batch.rows:
            steps_run[number] += 1
        finished += scheduler.advance(batch, STEP_S)
    assert sorted(finished) == list(range(len(rows)))
    assert list(steps_run.values()) == [one.steps for one in rows]
