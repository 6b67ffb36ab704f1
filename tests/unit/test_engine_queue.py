"""Whose turn it is: priorities, places, and time limits, with costs that the engine was told."""

import math
import time

import pytest

from serve.engine.engine import TRIAL_EVERY_S, Engine
from serve.engine.scheduler import TRIED
from serve.errors import BackendUnavailable, Overloaded
from serve.types import EditJob, Priority
from tests.fake_family import FakeFamily, Fault, Where, edit_job
from tests.gates import Gate
from tests.running_engine import engine_of, error_of, known_costs, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.waiting import eventually

STEP_S = 100.0
"""So long that the time which a test takes is nothing beside it."""


STALL_S = 0.8 * TRIAL_EVERY_S
"""Of a call that hangs for once, after which no trial is due."""


class Clock:
    """The machine's, which a test puts forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s, real = 0.0, time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self._ahead_s)

    def pass_by(self, seconds: float) -> None:
        self._ahead_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def slow_calls(gate: Gate, clock: Clock, *seconds: float) -> None:
    """The next calls that the gate stops take so long."""
    for one in seconds:
        gate.wait()
        clock.pass_by(one)
        gate.release()


def one_at_a_time(gate: Gate, step_s: float = STEP_S) -> Engine:
    """Batches of one pass, each stopped by the gate, and expected to take so long."""
    family = FakeFamily(step_gate=gate)
    return engine_of(family, max_batch=1, profile=known_costs(family, edit_job("a"), max_batch=1, step_s=step_s))


def limited(engine: Engine, job: EditJob, limit_s: float) -> Overloaded:
    with pytest.raises(Overloaded) as refused:
        engine.submit(job, time_limit_s=limit_s)
    return refused.value


# Who is first


def test_a_short_job_overtakes_a_long_one_in_a_full_batch():
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        engine.submit(edit_job("long", steps=20))
        assert gate.wait() == ("long:1",)
        engine.submit(edit_job("short", steps=2))
        assert [gate.step() for _ in range(3)] == [("short:1",), ("short:1",), ("long:1",)]


def test_a_high_priority_overtakes_at_the_next_step():
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        engine.submit(edit_job("normal", steps=20))
        assert gate.wait() == ("normal:1",)
        engine.submit(edit_job("shorter", steps=15))
        engine.submit(edit_job("high", steps=9, priority="high"))
        assert gate.step() == ("high:1",)


def test_a_low_priority_runs_when_nobody_else_waits_and_gives_way():
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        low = engine.submit(edit_job("low", steps=3, priority="low"))
        assert gate.wait() == ("low:1",)
        engine.submit(edit_job("normal", steps=5))
        assert [gate.step() for _ in range(6)] == [("normal:1",)] * 5 + [("low:1",)]
        gate.open()
        result_of(low)


def test_a_low_priority_ends_however_many_others_keep_coming():
    family = FakeFamily()
    profile = known_costs(family, edit_job("a"), max_batch=1, step_s=0.001)
    with running(engine_of(family, max_batch=1, profile=profile)) as engine:
        others = [engine.submit(edit_job(f"{i}")) for i in range(20)]
        low = engine.submit(edit_job("low", priority="low"))
        for _ in range(20_000):
            result_of(others.pop(0))
            others.append(engine.submit(edit_job("more")))
            if low.done():
                break
        assert low.done()


# Places


def test_a_job_that_runs_at_once_has_nobody_before_it():
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    profile = known_costs(family, edit_job("a"), step_s=STEP_S)
    with running(engine_of(family, profile=profile), gate) as engine:
        alone = engine.submit(edit_job("a", 1, 2, steps=3))
        gate.wait()
        beside = engine.submit(edit_job("b", steps=2))
        gate.open()
        places = [result_of(alone).place, result_of(beside).place]
    assert [place.position for place in places] == [0, 0]
    assert [place.seconds / STEP_S for place in places] == pytest.approx([3, 2], rel=1e-3)


def test_a_job_that_waits_is_told_how_many_run_before_it_and_when_it_will_have_ended():
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        futures = [engine.submit(edit_job("running", steps=4))]
        gate.wait()
        futures += [engine.submit(edit_job(f"{i}", steps=4 + i)) for i in range(3)]
        futures += [engine.submit(edit_job("last", 1, 2, steps=9))]
        gate.open()
        places = [result_of(future).place for future in futures]
    assert [place.position for place in places] == [0, 1, 2, 3, 4]
    assert [place.seconds / STEP_S for place in places] == pytest.approx([4, 8, 13, 19, 37], rel=1e-3)


@pytest.mark.parametrize(("priority", "position"), [("low", 4), ("normal", 4), ("high", 0)])
def test_a_priority_moves_the_place(priority: Priority, position: int):
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        engine.submit(edit_job("running", steps=4))
        gate.wait()
        for i in range(3):
            engine.submit(edit_job(f"{i}", steps=4))
        mine = engine.submit(edit_job("mine", steps=5, priority=priority))
        gate.open()
        assert result_of(mine).place.position == position


# Full queues


def test_a_full_queue_refuses_with_the_time_its_work_takes():
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    profile = known_costs(family, edit_job("a"), max_batch=1, step_s=STEP_S)
    with running(engine_of(family, max_batch=1, max_queued_rows=3, profile=profile), gate) as engine:
        engine.submit(edit_job("running", steps=10))
        gate.wait()
        engine.submit(edit_job("waiting", 1, 2, steps=10))
        with pytest.raises(Overloaded, match="2 images wait and 2 more were asked for; at most 3 may wait") as refused:
            engine.submit(edit_job("refused", 1, 2))
        engine.submit(edit_job("fits", steps=10))
        stats = engine.stats()
    assert refused.value.retry_after_s == pytest.approx(30 * STEP_S)
    assert (stats.waiting_rows, stats.running_rows, stats.refused_jobs) == (3, 1, 1)
    assert stats.queued_s == pytest.approx(40 * STEP_S)


def test_a_job_larger_than_the_queue_is_taken_when_nothing_waits():
    with running(engine_of(FakeFamily(), max_queued_rows=1)) as engine:
        assert len(result_of(engine.submit(edit_job("a", *range(10)))).images) == 10


# Time limits


def test_a_job_that_the_queue_leaves_no_time_for_is_refused_at_once():
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        engine.submit(edit_job("running", steps=10))
        gate.wait()
        error = limited(engine, edit_job("late", steps=10), limit_s=19 * STEP_S)
        stats = engine.stats()
    assert error.message == "the edit would take about 2000.0 s, its wait included; the request allows 1900.0 s"
    assert error.retry_after_s == pytest.approx(10 * STEP_S)
    assert (stats.refused_jobs, stats.waiting_rows) == (1, 0)


def test_a_job_that_can_end_in_its_time_does_though_others_are_before_it():
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        engine.submit(edit_job("running", steps=10))
        gate.wait()
        in_time = engine.submit(edit_job("in time", steps=10), time_limit_s=21 * STEP_S)
        gate.open()
        assert len(result_of(in_time).images) == 1


def test_a_time_limit_that_can_only_be_held_by_going_first_is_held():
    gate = Gate()
    engine = one_at_a_time(gate)
    engine.submit(edit_job("came first", steps=10))
    hurried = engine.submit(edit_job("hurried", steps=11), time_limit_s=11.5 * STEP_S)
    with running(engine, gate):
        assert gate.wait() == ("hurried:1",)
        gate.open()
        result_of(hurried)


def test_a_job_for_which_it_becomes_too_late_is_dropped_from_the_queue(clock: Clock):
    """The device has become slow, as some steps show."""
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    profile = known_costs(family, edit_job("a"), max_batch=1, step_s=1.0)
    with running(engine_of(family, max_batch=1, profile=profile), gate) as engine:
        runs = engine.submit(edit_job("running", steps=8))
        gate.wait()
        hopeful = engine.submit(edit_job("hopeful", 1, 2, steps=10), time_limit_s=1000.0)
        patient = engine.submit(edit_job("patient", steps=10))
        gate.release()
        slow_calls(gate, clock, *[STEP_S] * 6)
        error = error_of(hopeful)
        gate.open()
        result_of(runs)
        result_of(patient)
        stats = engine.stats()
    assert type(error) is Overloaded
    assert error.retryable
    assert error.retry_after_s is not None
    assert error.retry_after_s > 1
    assert not any(name.startswith("hopeful") for call in family.calls("denoiser") for name in call)
    assert (stats.refused_jobs, stats.cancelled_rows) == (1, 0)


def test_a_job_without_a_limit_is_never_too_late():
    gate = Gate()
    with running(one_at_a_time(gate, step_s=1e12), gate) as engine:
        engine.submit(edit_job("running"))
        gate.wait()
        patient = engine.submit(edit_job("patient"))
        gate.open()
        assert result_of(patient).place.seconds < math.inf


def test_an_idle_engine_tries_what_its_estimate_alone_rules_out():
    """It may have measured the device on a bad day, and only work that is run can tell."""
    family = FakeFamily()
    job = edit_job("a", steps=2)
    profile = known_costs(family, job, step_s=STEP_S)
    with running(engine_of(family, profile=profile)) as engine:
        result_of(engine.submit(job, time_limit_s=1.5 * STEP_S))
        assert engine.stats().refused_jobs == 0


def test_an_idle_engine_does_not_try_what_is_far_beyond_the_limit():
    family = FakeFamily()
    job = edit_job("a", steps=2)
    with running(engine_of(family, profile=known_costs(family, job, step_s=STEP_S))) as engine:
        limited(engine, job, limit_s=0.9 * STEP_S)
    assert family.log == []


def test_once_in_a_while_an_idle_engine_tries_for_itself_what_it_refused(clock: Clock):
    family = FakeFamily()
    job = edit_job("a", steps=2)
    with running(engine_of(family, profile=known_costs(family, job, step_s=STEP_S))) as engine:
        clock.pass_by(TRIAL_EVERY_S)
        refused = limited(engine, job, limit_s=0.9 * STEP_S)
        eventually(lambda: len(family.calls("denoiser")) == 2 and not engine.stats().running_rows)
        place = result_of(engine.submit(job, time_limit_s=0.9 * STEP_S)).place
        assert engine.stats().refused_jobs == 1
    assert refused.retry_after_s == 1.0
    assert place.seconds < 0.1 * STEP_S


def test_a_trial_is_a_few_steps_of_one_row_and_the_next_is_a_while_away(clock: Clock):
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    job, step_s = edit_job("a", 1, 2, 3, steps=30), 10.0
    with running(engine_of(family, profile=known_costs(family, job, step_s=step_s)), gate) as engine:
        clock.pass_by(TRIAL_EVERY_S)
        limited(engine, job, limit_s=10 * step_s)
        slow_calls(gate, clock, *[step_s] * TRIED)
        comes = engine.submit(edit_job("b", steps=1))
        slow_calls(gate, clock, step_s)
        result_of(comes)
        limited(engine, job, limit_s=10 * step_s)
        assert family.calls("denoiser") == [*[("a:1",)] * TRIED, ("b:1",)]
        clock.pass_by(TRIAL_EVERY_S)
        limited(engine, job, limit_s=10 * step_s)
        slow_calls(gate, clock, step_s)
        assert engine.stats().refused_jobs == 3


def test_who_comes_during_a_trial_is_told_of_its_few_steps_alone(clock: Clock):
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    job = edit_job("a", steps=1000)
    with running(
        engine_of(family, max_batch=1, profile=known_costs(family, job, max_batch=1, step_s=1.0)), gate
    ) as engine:
        clock.pass_by(TRIAL_EVERY_S)
        limited(engine, job, limit_s=100.0)
        gate.wait()
        refused = limited(engine, job, limit_s=100.0)
        assert engine.stats().queued_s == TRIED
        comes = engine.submit(edit_job("b", steps=1), time_limit_s=60.0)
        gate.open()
        assert result_of(comes).place.seconds <= TRIED + 1
    assert refused.retry_after_s == TRIED


def test_what_waits_behind_others_is_refused_for_its_estimate_however_long_ago_a_trial_was(clock: Clock):
    gate = Gate()
    with running(one_at_a_time(gate), gate) as engine:
        engine.submit(edit_job("running", steps=10))
        gate.wait()
        clock.pass_by(TRIAL_EVERY_S)
        limited(engine, edit_job("late", steps=10), limit_s=9 * STEP_S)
        assert engine.stats().waiting_rows == 0


def test_a_first_step_in_which_something_is_compiled_ends_no_job_and_refuses_none(clock: Clock):
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    with running(engine_of(family, max_batch=2), gate) as engine:
        first = [engine.submit(edit_job(name, steps=20), time_limit_s=200.0) for name in "ab"]
        slow_calls(gate, clock, STALL_S)
        gate.open()
        for future in first:
            result_of(future)
        result_of(engine.submit(edit_job("c", steps=20), time_limit_s=0.2 * STALL_S))
        assert engine.stats().refused_jobs == 0


@pytest.mark.parametrize("jobs", [1, 4])
def test_one_step_that_stalls_ends_no_job_and_refuses_none(clock: Clock, jobs: int):
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    profile = known_costs(family, edit_job("a"), step_s=0.001)
    with running(engine_of(family, profile=profile), gate) as engine:
        futures = [engine.submit(edit_job(f"{i}", steps=50), time_limit_s=200.0) for i in range(jobs)]
        slow_calls(gate, clock, 0.0, 0.0, STALL_S)
        gate.open()
        for future in futures:
            result_of(future)
        result_of(engine.submit(edit_job("later", steps=50), time_limit_s=0.2 * STALL_S))
        assert engine.stats().refused_jobs == 0


@pytest.mark.parametrize("prompts", ["ab", "aa"], ids=["new", "kept"])
def test_an_encoding_that_stalls_refuses_nobody(clock: Clock, prompts: str):
    gate = Gate()
    engine = engine_of(FakeFamily(encode_gate=gate))
    together = [engine.submit(edit_job(f"{i}", prompt=prompt)) for i, prompt in enumerate((prompts[0], "others"))]
    with running(engine, gate):
        slow_calls(gate, clock, STALL_S)
        gate.open()
        for future in together:
            result_of(future)
        result_of(engine.submit(edit_job("next", prompt=prompts[1]), time_limit_s=0.2 * STALL_S))
        assert engine.stats().refused_jobs == 0


FAILING: list[Where] = ["text_encoder", "denoiser", "decoder"]


@pytest.mark.parametrize("where", FAILING)
def test_a_call_that_fails_at_once_tells_nothing_of_what_one_takes(where: Where):
    family = FakeFamily(Fault("bad", where, BackendUnavailable("not now")))
    job = edit_job("a", prompt="bad", steps=1)
    told = [STEP_S if where == one else None for one in ("denoiser", "text_encoder", "decoder")]
    profile = known_costs(family, job, step_s=told[0], encode_s=told[1], decode_s=told[2])
    with running(engine_of(family, profile=profile)) as engine:
        error_of(engine.submit(job))
        place = result_of(engine.submit(edit_job("b", prompt="good", steps=1))).place
    assert place.seconds == pytest.approx(STEP_S, rel=1e-2)


def test_an_estimate_from_a_bad_day_is_forgotten_as_work_is_run():
    family = FakeFamily()
    job = edit_job("a", steps=20)
    profile = known_costs(family, job, step_s=STEP_S)
    with running(engine_of(family, profile=profile)) as engine:
        before = result_of(engine.submit(job)).place.seconds
        after = result_of(engine.submit(job)).place.seconds
    assert before == pytest.approx(20 * STEP_S)
    assert after < before / 10
