"""How jobs end: cancelled, refused, failed, drained or with the engine itself; each exactly once."""

import asyncio
import gc
import logging
import random
import threading
from collections import Counter
from concurrent.futures import CancelledError, Future, wait

import numpy as np
import pytest
import torch

from serve.errors import BackendLost, BackendUnavailable, InternalError, InvalidRequest, Overloaded
from serve.types import EditJob, EditResult
from tests.fake_family import TIMEOUT_S, FakeFamily, Fault, Gate, Where, drawn_alone, edit_job
from tests.running_engine import engine_of, error_of, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself

# Cancellation


def test_a_cancelled_row_leaves_the_batch_at_the_next_step():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        leaving = engine.submit(edit_job("leaving", steps=50))
        assert gate.wait() == ("leaving:1",)
        staying = engine.submit(edit_job("staying", steps=3))
        assert set(gate.step()) == {"leaving:1", "staying:1"}
        assert leaving.cancel()
        assert gate.step() == ("staying:1",)
        gate.open()
        result_of(staying)
        stats = engine.stats()
    assert leaving.cancelled()
    assert (stats.cancelled_rows, stats.wasted_row_steps, stats.row_steps) == (1, 2, 2 + 3)


def test_a_cancelled_job_that_waits_frees_its_places_at_once():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=1, max_queued_rows=2), gate) as engine:
        engine.submit(edit_job("running"))
        gate.wait()
        waiting = engine.submit(edit_job("waiting", 1, 2))
        with pytest.raises(Overloaded):
            engine.submit(edit_job("refused"))
        assert waiting.cancel()
        assert engine.stats().waiting_rows == 0
        engine.submit(edit_job("accepted", 1, 2))
        assert engine.stats().waiting_rows == 2
    assert waiting.cancelled()


def test_cancelling_twice_counts_once_and_after_the_end_not_at_all():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        done, leaving = engine.submit(edit_job("done")), engine.submit(edit_job("leaving"))
        gate.wait()
        assert [leaving.cancel(), leaving.cancel()] == [True, True]
        gate.open()
        result_of(done)
        assert not done.cancel()
        assert engine.stats().cancelled_rows == 1


async def test_a_coroutine_that_no_longer_waits_cancels_its_job():
    engine = engine_of(FakeFamily())
    future = engine.submit(edit_job("a"))

    async def caller() -> EditResult:
        return await asyncio.wrap_future(future)

    leaving = asyncio.create_task(caller())
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert future.cancelled()
    assert (engine.stats().waiting_rows, engine.stats().cancelled_rows) == (0, 1)


def test_a_job_cancelled_while_it_is_encoded_never_runs():
    gate = Gate()
    family = FakeFamily(encode_gate=gate)
    with running(engine_of(family), gate) as engine:
        future = engine.submit(edit_job("a"))
        gate.wait()
        future.cancel()
        gate.open()
        result_of(engine.submit(edit_job("b")))
    assert future.cancelled()
    assert {name for call in family.calls for name in call} == {"b:1"}


def test_a_cancelled_job_leaves_another_of_the_same_id():
    engine = engine_of(FakeFamily())
    first, second = engine.submit(edit_job("same", 1)), engine.submit(edit_job("same", 2))
    first.cancel()
    with running(engine):
        assert len(result_of(second).images) == 1
    assert first.cancelled()


def test_those_who_wait_for_a_cancelled_job_are_told():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        future = engine.submit(edit_job("a"))
        gate.wait()
        future.cancel()
        assert future in wait([future], TIMEOUT_S).done


# Overload


def test_a_full_queue_refuses_with_the_time_its_work_takes():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=1, max_queued_rows=3), gate) as engine:
        engine.submit(edit_job("running", steps=100))
        gate.wait()
        gate.step()
        engine.submit(edit_job("waiting", 1, 2, steps=100))
        with pytest.raises(Overloaded, match="2 images wait and 2 more were asked for; at most 3 may wait") as refused:
            engine.submit(edit_job("refused", 1, 2))
        engine.submit(edit_job("fits", steps=100))
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 1
        assert engine.stats().waiting_rows == 3
        assert engine.stats().queued_s > 0


def test_retry_after_grows_with_the_work_that_is_queued():
    engine = engine_of(FakeFamily(step_gate=(gate := Gate())), max_batch=1, max_queued_rows=1)
    asked: list[float] = []
    with running(engine, gate):
        engine.submit(edit_job("running", steps=2))
        gate.wait()
        gate.step()
        for steps in (10**6, 10**9):
            waiting = engine.submit(edit_job("waiting", steps=steps))
            with pytest.raises(Overloaded) as refused:
                engine.submit(edit_job("refused"))
            asked.append(refused.value.retry_after_s or 0.0)
            assert asked[-1] == pytest.approx(max(1.0, engine.stats().queued_s))
            waiting.cancel()
    assert asked[1] > asked[0] >= 1


def test_a_job_larger_than_the_queue_is_taken_when_nothing_waits():
    with running(engine_of(FakeFamily(), max_queued_rows=1)) as engine:
        assert len(result_of(engine.submit(edit_job("a", *range(10)))).images) == 10


# Failures of one job

FAULTS: list[Where] = ["encode_text", "begin", "step_inputs", "nan", "advance", "decode"]


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_of_one_job_ends_that_job_alone(where: Where, caplog: pytest.LogCaptureFixture):
    family = FakeFamily(Fault("bad", where))
    engine = engine_of(family, invariant=False)
    before, bad, after = (engine.submit(edit_job(name, prompt=name)) for name in ("before", "bad", "after"))
    with running(engine), caplog.at_level(logging.ERROR):
        error = error_of(bad)
        for future in (before, after):
            result_of(future)
        assert engine.healthy()
    assert type(error) is InternalError
    assert "secret" not in error.message
    assert family.final_latents["after:1"] == drawn_alone(edit_job("after", prompt="after"), 1, 4)[1]
    (logged,) = [record for record in caplog.records if "bad" in record.getMessage()]
    assert logged.exc_info is not None


@pytest.mark.parametrize("where", ["encode_text", "begin", "step_inputs", "denoise", "advance", "decode"])
def test_an_error_that_says_what_is_wrong_reaches_the_caller(where: Where):
    raised = InvalidRequest("the prompt has 900 tokens; at most 512 are read", param="prompt")
    with running(engine_of(FakeFamily(Fault("bad", where, raised)))) as engine:
        error = error_of(engine.submit(edit_job("a", prompt="bad")))
    assert (type(error), error.message, error.param) == (InvalidRequest, raised.message, "prompt")
    assert error is not raised


@pytest.mark.parametrize("error", [BackendUnavailable("not now"), torch.OutOfMemoryError("2 GiB")], ids=type)
def test_a_call_that_another_may_follow_fails_its_rows_and_the_engine_goes_on(error: Exception):
    gate = Gate()
    family = FakeFamily(Fault("bad", "denoise", error, step=1), step_gate=gate)
    with running(engine_of(family), gate) as engine:
        bad = engine.submit(edit_job("bad", prompt="bad"))
        gate.wait()
        beside = engine.submit(edit_job("beside"))
        assert set(gate.step()) == {"bad:1", "beside:1"}
        gate.open()
        errors = [error_of(bad), error_of(beside)]
        assert [(type(error), error.retryable) for error in errors] == [(BackendUnavailable, True)] * 2
        assert errors[0] is not errors[1]
        result_of(engine.submit(edit_job("later")))
        assert engine.healthy()


@pytest.mark.parametrize("where", ["encode_text", "begin", "decode"])
def test_a_job_for_which_there_is_no_memory_may_be_tried_again(where: Where):
    with running(engine_of(FakeFamily(Fault("bad", where, torch.OutOfMemoryError("2 GiB"))))) as engine:
        error = error_of(engine.submit(edit_job("bad", prompt="bad")))
        result_of(engine.submit(edit_job("later")))
        assert engine.healthy()
    assert (type(error), error.retryable) == (BackendUnavailable, True)


def test_a_fault_in_one_row_ends_all_rows_of_its_job():
    family = FakeFamily(Fault("bad", "advance", step=1))
    with running(engine_of(family)) as engine:
        error_of(engine.submit(edit_job("a", 1, 2, 3, 4, 5, 6, prompt="bad")))
        result_of(engine.submit(edit_job("b")))
        stats = engine.stats()
    assert (stats.waiting_rows, stats.running_rows) == (0, 0)


# The end of the engine


class Crash(BaseException):
    """No error of a job."""


@pytest.mark.parametrize("where", ["encode_text", "begin", "step_inputs", "denoise", "advance", "decode"])
@pytest.mark.parametrize(
    "death",
    [Crash("a bug"), torch.AcceleratorError("CUDA error"), BackendLost("the server of the model is gone")],
    ids=["bug", "device", "backend"],
)
def test_a_dead_engine_fails_every_job_and_says_so(where: Where, death: BaseException):
    engine = engine_of(FakeFamily(Fault("bad", where, death)), max_batch=1)
    futures = [engine.submit(edit_job("bad", prompt="bad")), *(engine.submit(edit_job(name)) for name in "abc")]
    assert engine.failure() is None
    engine.start()
    assert {type(error_of(future)) for future in futures} == {BackendUnavailable}
    assert not engine.healthy()
    assert not engine.stats().healthy
    assert str(death) in (engine.failure() or "")
    with pytest.raises(BackendUnavailable):
        engine.submit(edit_job("late"))
    engine.drain(TIMEOUT_S)
    assert not engine.healthy()


def test_a_drain_finishes_what_runs_and_refuses_what_waits():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate), max_batch=1)
    engine.start()
    runs = engine.submit(edit_job("runs", 1, 2))
    gate.wait()
    waits = engine.submit(edit_job("waits", steps=50))
    draining = threading.Thread(target=engine.drain, args=(TIMEOUT_S,))
    draining.start()
    error = error_of(waits)
    with pytest.raises(BackendUnavailable):
        engine.submit(edit_job("late"))
    assert not runs.done()
    gate.open()
    draining.join(TIMEOUT_S)
    assert type(error) is BackendUnavailable
    assert error.retryable
    assert len(runs.result(0).images) == 2
    assert not engine.healthy()


def test_a_drain_past_its_time_fails_what_runs():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate))
    engine.start()
    runs = engine.submit(edit_job("runs"))
    gate.wait()
    engine.drain(0.01)
    assert type(runs.exception(0)) is BackendUnavailable
    gate.open()
    engine.drain(TIMEOUT_S)
    assert engine.stats().row_steps == 1


def test_a_drain_of_an_idle_engine_ends_its_thread():
    before = threading.active_count()
    engine = engine_of(FakeFamily())
    engine.start()
    result_of(engine.submit(edit_job("a")))
    assert threading.active_count() == before + 1
    engine.drain(TIMEOUT_S)
    assert threading.active_count() == before
    engine.drain(TIMEOUT_S)


def test_an_engine_that_never_started_fails_its_jobs_when_drained():
    engine = engine_of(FakeFamily())
    future = engine.submit(edit_job("a"))
    assert not engine.healthy()
    engine.drain(TIMEOUT_S)
    assert type(future.exception(0)) is BackendUnavailable
    with pytest.raises(RuntimeError, match="has stopped"):
        engine.start()


def test_nothing_of_a_job_is_kept_after_its_end():
    family = FakeFamily(Fault("bad", "nan", step=2))
    engine = engine_of(family)
    with running(engine):
        futures = [engine.submit(edit_job("good", 1, 2)), engine.submit(edit_job("bad", prompt="bad"))]
        wait(futures, TIMEOUT_S)
    gc.collect()
    assert len(family.made) == 3
    assert [made() for made in family.made] == [None] * 3


# Everything at once


def a_random_job(draw: random.Random, request_id: str) -> EditJob:
    return edit_job(
        request_id,
        *(draw.randrange(2**64) for _ in range(draw.choice([1, 1, 1, 2, 5]))),
        prompt=draw.choice(["blue", "red", "bad", "poison"]) if draw.random() < 0.5 else f"as in {request_id}",
        steps=draw.choice([1, 2, 4, 9]),
        strength=draw.choice([1.0, 1.0, 0.5, 0.0]),
        guidance=draw.choice([1.0, 3.0]),
        side=draw.choice([8, 12]),
        picture=draw.randrange(3),
    )


def test_two_hundred_mixed_jobs_with_cancellations_all_end_exactly_once():
    draw = random.Random(3)
    family = FakeFamily(Fault("bad", "decode"), Fault("poison", "nan", step=1))
    engine = engine_of(family, invariant=False, max_queued_rows=10**6)
    jobs = [a_random_job(draw, f"{i}") for i in range(200)]
    cancelled = {job.request_id for job in jobs if draw.random() < 0.25}
    ends: Counter[str] = Counter()
    futures: dict[str, Future[EditResult]] = {}

    def send(mine: list[EditJob]) -> None:
        for job in mine:
            future = futures[job.request_id] = engine.submit(job)
            future.add_done_callback(lambda _, request_id=job.request_id: ends.update([request_id]))
            if job.request_id in cancelled:
                future.cancel()

    with running(engine):
        clients = [threading.Thread(target=send, args=(jobs[i::4],)) for i in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(TIMEOUT_S)
        assert not wait(futures.values(), TIMEOUT_S).not_done
        stats = engine.stats()
    assert ends == Counter({job.request_id: 1 for job in jobs})
    assert (stats.waiting_rows, stats.running_rows, stats.queued_s) == (0, 0, 0)
    for job in jobs:
        check_end(job, futures[job.request_id], job.request_id in cancelled)


def check_end(job: EditJob, future: Future[EditResult], was_cancelled: bool) -> None:
    if future.cancelled():
        assert was_cancelled
        with pytest.raises(CancelledError):
            future.result(0)
    elif error := future.exception(0):
        assert type(error) is InternalError
        assert job.prompt in ("bad", "poison")
    elif job.strength:
        for image, seed in zip(future.result(0).images, job.seeds, strict=True):
            np.testing.assert_array_equal(image, drawn_alone(job, seed, 4)[0])
