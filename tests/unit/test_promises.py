"""What the step scheduler promises of waiting times, in virtual time, against first come, first served."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from serve.engine.policy import Row
from serve.engine.scheduler import PATIENCE, PATIENCE_RUN, StepScheduler
from serve.engine.whole_requests import WholeRequests, one_job
from serve.types import Priority
from tests.simulation import (
    LINEAR_STEP_S,
    Arrival,
    ExactCosts,
    FirstCome,
    History,
    StepSeconds,
    h200_512px,
    linear,
    simulate,
)

PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")
KNEE = 8
MIX = {4: 0.3, 8: 0.2, 28: 0.4, 50: 0.1}
MEAN_STEPS = sum(steps * share for steps, share in MIX.items())

arrival_patterns = st.lists(st.tuples(st.floats(0, 12), st.integers(1, 50)), min_size=1, max_size=25)


def scheduler_of(step_s: StepSeconds, limit: int) -> StepScheduler:
    return StepScheduler(ExactCosts(step_s, limit), resident_rows=4 * limit)


def by_gaps(pattern: Sequence[tuple[float, int]]) -> list[Arrival]:
    times = accumulate(gap_s for gap_s, _ in pattern)
    return [Arrival(at_s, steps) for at_s, (_, steps) in zip(times, pattern, strict=True)]


def mix(jobs: int, jobs_per_s: float, seed: int) -> list[Arrival]:
    """A Poisson stream of jobs of 4 to 50 steps."""
    draw = random.Random(seed)
    steps = draw.choices(list(MIX), list(MIX.values()), k=jobs)
    return by_gaps([(draw.expovariate(jobs_per_s), count) for count in steps])


def percentile(history: History, which: Callable[[Arrival], bool], share: float) -> float:
    spent_s = history.spent_s(which)
    return spent_s[int(share * len(spent_s))]


def latest_ends(first_come: History) -> list[float]:
    """When each job must have ended on one slot of a linear device: by when it is due, or when everything is done that
    had come by then, which takes any device that never rests equally long."""
    ends: list[float] = []
    for job, one in enumerate(first_come.arrivals):
        due_s = one.at_s + 1.1 * (first_come.ended_s[job] - one.at_s) + 0.1 * one.steps * LINEAR_STEP_S
        ends.append(max(due_s, *(first_come.ended_s[other] for other in _come_by(first_come, due_s))) + LINEAR_STEP_S)
    return ends


def _come_by(history: History, at_s: float) -> list[int]:
    return [job for job, one in enumerate(history.arrivals) if one.at_s <= at_s]


@settings(max_examples=100, deadline=None)
@given(arrival_patterns)
def test_a_row_past_its_due_time_is_overtaken_by_none_that_comes(pattern: list[tuple[float, int]]):
    arrivals = by_gaps(pattern)
    ours = simulate(scheduler_of(linear, 1), arrivals, linear)
    for job, latest_s in enumerate(latest_ends(simulate(FirstCome(1), arrivals, linear))):
        assert ours.ended_s[job] <= latest_s + 1e-9


@pytest.mark.parametrize("load", [0.6, 0.95, 1.2])
@pytest.mark.parametrize("limit", [2, KNEE])
def test_in_batches_quick_jobs_gain_and_no_length_of_job_loses_a_quarter_of_its_wait(limit: int, load: float):
    full_step_s = h200_512px("k", limit)
    ours_s: dict[int, list[float]] = defaultdict(list)
    first_come_s: dict[int, list[float]] = defaultdict(list)
    for seed in range(4):
        arrivals = mix(300, load * limit / full_step_s / MEAN_STEPS, seed)
        ours = simulate(scheduler_of(h200_512px, limit), arrivals, h200_512px)
        first_come = simulate(FirstCome(limit), arrivals, h200_512px)
        for job, one in enumerate(arrivals):
            ours_s[one.steps].append(ours.ended_s[job] - one.at_s)
            first_come_s[one.steps].append(first_come.ended_s[job] - one.at_s)
    for steps in MIX:
        assert np.percentile(ours_s[steps], 99) <= 1.25 * np.percentile(first_come_s[steps], 99)
    crowded = load > 0.9
    for steps in (4, 8):
        assert np.percentile(ours_s[steps], 95) <= (0.5 if crowded else 1.0) * np.percentile(first_come_s[steps], 95)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_load_short_jobs_gain_fivefold_and_long_ones_lose_little(seed: int):
    arrivals = mix(1000, 0.9 / MEAN_STEPS / LINEAR_STEP_S, seed)
    ours = simulate(scheduler_of(linear, 1), arrivals, linear)
    first_come = simulate(FirstCome(1), arrivals, linear)
    short_s, long_s = (
        [percentile(history, which, share) for history in (ours, first_come)]
        for which, share in ((lambda one: one.steps <= 8, 0.95), (lambda one: one.steps == 50, 0.99))
    )
    assert short_s[0] <= short_s[1] / 5
    assert long_s[0] <= 1.3 * long_s[1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_batches_pay_nearly_all_end_within_three_times_their_own_time(seed: int):
    """At a load of 0.6 of what one request at a time can serve."""
    arrivals = mix(600, 0.6 / MEAN_STEPS / h200_512px("k", 1), seed)
    ours = simulate(scheduler_of(h200_512px, KNEE), arrivals, h200_512px)
    singly = simulate(WholeRequests(ExactCosts(h200_512px, 1), max_batch=1, group=one_job), arrivals, h200_512px)
    shares = [
        sum(
            history.ended_s[job] - one.at_s <= 3 * one.steps * h200_512px("k", 1)
            for job, one in enumerate(history.arrivals)
        )
        / len(arrivals)
        for history in (ours, singly)
    ]
    assert shares[0] >= 0.94
    assert shares[1] <= 0.8


@pytest.mark.parametrize("limit", [1, KNEE])
@pytest.mark.parametrize("steps_of_others", [1, 4])
def test_no_stream_of_shorter_rows_starves_a_long_one(steps_of_others: int, limit: int):
    """Twice as many come as the device can serve, and all are shorter. Of them, only those that come before it is due
    are before it."""
    step_s = h200_512px("k", limit)
    gap_s = steps_of_others * step_s / limit / 2
    stream = [Arrival((index + 1) * gap_s, steps_of_others) for index in range(int(150 * step_s / gap_s))]
    history = simulate(scheduler_of(h200_512px, limit), [Arrival(0.0, 50), *stream], h200_512px)
    due_steps = (1.1 + 0.1) * 50
    assert history.ended_s[0] <= (50 + 2 * due_steps + 2) * step_s
    assert min(history.ended_s[job] for job in range(1, 10)) < history.ended_s[0]


@pytest.mark.parametrize(("long", "others"), [("normal", "high"), ("low", "normal"), ("low", "high")])
def test_no_stream_of_higher_priority_starves_a_row(long: Priority, others: Priority):
    """From when it is due on, all that comes is due after it: what had come by then is the most that is before it."""
    stream = [Arrival((index + 1) * LINEAR_STEP_S, 2, priority=others) for index in range(600)]
    arrivals = [Arrival(0.0, 20, priority=long), *stream]
    history = simulate(scheduler_of(linear, 1), arrivals, linear)
    due_s = (PATIENCE[long] + PATIENCE_RUN) * 20 * LINEAR_STEP_S
    before = sum(one.steps for one in arrivals if one.at_s <= due_s)
    assert history.ended_s[0] <= (before + 2) * LINEAR_STEP_S


def test_high_overtakes_normal_and_normal_overtakes_low():
    """Each within what the other can spare; the three come in turn and have the same lengths."""
    draw = random.Random(4)
    plain = mix(900, 0.85 / MEAN_STEPS / LINEAR_STEP_S, seed=4)
    arrivals = [Arrival(one.at_s, one.steps, priority=draw.choice(PRIORITIES)) for one in plain]
    history = simulate(scheduler_of(linear, 1), arrivals, linear)
    means = [
        sum(spent_s) / len(spent_s)
        for priority in PRIORITIES
        for spent_s in [history.spent_s(lambda one, priority=priority: one.priority == priority)]
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] >= 1.5 * means[1] >= 1.5 * means[2]


# Keys


def test_a_key_with_one_row_waits_for_no_more_than_the_others_turn():
    crowd = [Arrival(0.0, 50, key="crowd") for _ in range(40)]
    history = simulate(scheduler_of(h200_512px, KNEE), [*crowd, Arrival(1.0, 8, key="one")], h200_512px)
    own_s, crowds_step_s = 8 * h200_512px("one", 1), h200_512px("crowd", KNEE)
    assert history.ended_s[40] - 1.0 <= 2 * own_s + 2 * crowds_step_s


@pytest.mark.parametrize("expected", [1.0, 0.2, 5.0])
def test_keys_that_always_have_rows_get_equal_time_whatever_was_expected(expected: float):
    """Their steps take 1 and 3 times as long as each other, and `expected` times what the costs say."""

    def real(key: object, passes: int) -> float:
        return expected * told(key, passes)

    def told(key: object, passes: int) -> float:
        return (1.0 if key == "a" else 3.0) * h200_512px(key, passes)

    arrivals = [Arrival(0.0, 30, key=key) for key in "ab" for _ in range(16)]
    history = simulate(StepScheduler(ExactCosts(told, KNEE), resident_rows=32), arrivals, real)
    shared = history.steps[: len(history.steps) // 2]
    assert {step.batch.key for step in shared[-4:]} == {"a", "b"}
    longest_s = max(real(key, KNEE) for key in "ab")
    for step in shared:
        apart_s = history.device_s("a", step.ended_s) - history.device_s("b", step.ended_s)
        assert abs(apart_s) <= 2 * longest_s + max(0.0, 3.0 * h200_512px("b", KNEE) - longest_s)


def test_a_key_alone_has_the_device_and_owes_nothing_to_who_comes_later():
    arrivals = [Arrival(0.0, 60, key="a"), Arrival(5.0, 10, key="b")]
    history = simulate(scheduler_of(linear, 1), arrivals, linear)
    assert history.ended_s[1] - 5.0 == pytest.approx(20 * LINEAR_STEP_S, abs=2 * LINEAR_STEP_S)
    assert history.ended_s[0] == pytest.approx(70 * LINEAR_STEP_S)


def test_a_device_with_work_never_rests():
    arrivals = mix(300, 0.7 / MEAN_STEPS / LINEAR_STEP_S, seed=6)
    histories = [simulate(one, arrivals, linear) for one in (scheduler_of(linear, 1), FirstCome(1))]
    ends = [[step.ended_s for step in history.steps] for history in histories]
    assert ends[0] == pytest.approx(ends[1])


# Forecasts


def forecasts(
    arrivals: Sequence[Arrival], step_s: StepSeconds, limit: int
) -> tuple[tuple[int, float], tuple[int, float]]:
    """Of the last arrival: the place and the seconds as told when it came, and as they turned out. Its place counts the
    jobs of which a row begins before its first."""
    scheduler = scheduler_of(step_s, limit)
    told: list[tuple[float, tuple[int, float]]] = []
    jobs: dict[int, int] = {}

    def ask(rows: Sequence[Row], now_s: float) -> None:
        told.append((now_s, scheduler.forecast(rows, now_s)))
        jobs.update({row.id: row.job for row in rows})

    history = simulate(scheduler, arrivals, step_s, ask)
    asked_s, forecast = told[-1]
    last = len(arrivals) - 1
    began_s = history.begun_s[last]
    began = {row: step.began_s for step in reversed(history.steps) for row in step.batch.rows}
    ahead = {jobs[row] for row, at_s in began.items() if asked_s <= at_s < began_s}
    return forecast, (0 if began_s == asked_s else 1 + len(ahead), history.ended_s[last] - asked_s)


@settings(max_examples=60, deadline=None)
@given(pattern=arrival_patterns, limit=st.sampled_from([1, 4, 8]), data=st.data())
def test_when_nothing_else_comes_the_forecast_of_one_key_is_exact(
    pattern: list[tuple[float, int]], limit: int, data: st.DataObject
):
    arrivals = [
        Arrival(one.at_s / limit, one.steps, priority=data.draw(st.sampled_from(PRIORITIES)))
        for one in by_gaps(pattern)
    ]
    told, real = forecasts(arrivals, h200_512px, limit)
    assert told[0] == real[0]
    assert told[1] == pytest.approx(real[1])


@settings(max_examples=60, deadline=None)
@given(pattern=arrival_patterns, limit=st.sampled_from([1, 4, 8]), rows=st.lists(st.integers(1, 6), min_size=25))
@example(pattern=[(0.0, 1), (0.0, 1), (0.0, 1), (7.0, 25), (0.0, 19)], limit=8, rows=[1, 1, 1, 6, 3])  # one step spare
def test_rows_of_one_job_are_foreseen_together(pattern: list[tuple[float, int]], limit: int, rows: list[int]):
    arrivals = [Arrival(one.at_s, one.steps, rows=count) for one, count in zip(by_gaps(pattern), rows, strict=False)]
    told, real = forecasts(arrivals, h200_512px, limit)
    assert told[0] == real[0]
    assert told[1] == pytest.approx(real[1])


def test_a_row_for_which_there_is_no_place_is_foreseen_to_wait_for_one():
    """Each is quicker than those before it, all of which are begun, as many as memory is held for."""
    nested = [(0.0, 50), (0.2, 20), (0.4, 10), (0.6, 5), (0.8, 2), (0.9, 1)]
    told, real = forecasts([Arrival(at_s, steps) for at_s, steps in nested], h200_512px, limit=1)
    assert told[0] == real[0] == 1
    assert told[1] == pytest.approx(real[1])


@pytest.mark.parametrize("keys", ["ab", "abc"])
def test_the_forecast_beside_other_keys_is_good_to_a_few_steps(keys: str):
    """Others' turns are taken as shared evenly until their work is done, whichever comes first in a round."""
    late: list[float] = []
    for seed in range(60):
        draw = random.Random(seed)
        plain = mix(draw.randint(2, 20), draw.choice([0.5, 1, 4]) * KNEE / h200_512px("k", KNEE) / MEAN_STEPS, seed)
        arrivals = [Arrival(one.at_s, one.steps, key=draw.choice(keys)) for one in plain]
        told, real = forecasts(arrivals, h200_512px, KNEE)
        late.append(abs(told[1] - real[1]) / h200_512px("k", KNEE))
    assert sorted(late)[int(0.9 * len(late))] <= 3.0
