"""How jobs end: cancelled, failed, drained or with the engine itself; each exactly once."""

import asyncio
import logging
import re
import threading
import time
from concurrent.futures import wait

import pytest
import torch

from serve.errors import BackendLost, BackendUnavailable, DeviceOutOfMemory, InternalError, InvalidRequest, Overloaded
from serve.types import EditResult
from tests.fake_backend import fixed_size
from tests.fake_family import FakeFamily, Fault, Where, drawn_alone, edit_job
from tests.gates import TIMEOUT_S, Gate
from tests.running_engine import engine_of, error_of, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.waiting import eventually

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
    assert {name for call in family.calls("denoiser") for name in call} == {"b:1"}


def test_a_job_cancelled_while_it_is_decoded_ends_cancelled_and_leaves_its_neighbour():
    gate = Gate()
    family = FakeFamily(decode_gate=gate)
    engine = engine_of(family)
    leaving, staying = engine.submit(edit_job("leaving", steps=2)), engine.submit(edit_job("staying", steps=2))
    with running(engine, gate):
        assert gate.wait() == ("leaving:1", "staying:1")
        assert leaving.cancel()
        gate.open()
        result_of(staying)
        stats = engine.stats()
    assert leaving.cancelled()
    assert (stats.cancelled_rows, stats.wasted_row_steps) == (1, 2)


def test_a_job_cancelled_between_its_last_step_and_its_decode_is_not_decoded():
    gate, decode_gate = Gate(), Gate()
    family = FakeFamily(step_gate=gate, decode_gate=decode_gate, backend=fixed_size())
    engine = engine_of(family, max_batch=2)
    first, leaving = engine.submit(edit_job("first", steps=1)), engine.submit(edit_job("leaving", steps=1))
    with running(engine, gate, decode_gate):
        gate.wait()
        gate.release()
        assert decode_gate.wait() == ("first:1",)
        leaving.cancel()
        decode_gate.open()
        result_of(first)
        gate.open()
        result_of(engine.submit(edit_job("later")))
    assert family.calls("decoder") == [("first:1",), ("later:1",)]


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


# Failures of one job

FAULTS: list[Where] = [
    "encode_text",
    "nan in text_encoder",
    "begin",
    "step",
    "nan in denoiser",
    "stepped",
    "decode",
    "nan in decoder",
]


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_of_one_job_ends_that_job_alone(where: Where, caplog: pytest.LogCaptureFixture):
    family = FakeFamily(Fault("bad", where), backend=fixed_size())
    engine = engine_of(family)
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


SPEAKING: list[Where] = ["encode_text", "text_encoder", "begin", "step", "denoiser", "stepped", "decode", "decoder"]


@pytest.mark.parametrize("where", SPEAKING)
def test_an_error_that_says_what_is_wrong_reaches_the_caller(where: Where):
    raised = InvalidRequest("the prompt has 900 tokens; at most 512 are read", param="prompt")
    with running(engine_of(FakeFamily(Fault("bad", where, raised)))) as engine:
        error = error_of(engine.submit(edit_job("a", prompt="bad")))
    assert (type(error), error.message, error.param) == (InvalidRequest, raised.message, "prompt")
    assert error is not raised


def test_a_call_that_another_may_follow_fails_its_rows_and_the_engine_goes_on():
    gate = Gate()
    family = FakeFamily(Fault("bad", "denoiser", BackendUnavailable("not now"), step=1), step_gate=gate)
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
def test_work_beside_the_components_that_finds_no_memory_may_be_tried_again(where: Where):
    with running(engine_of(FakeFamily(Fault("bad", where, torch.OutOfMemoryError("2 GiB"))))) as engine:
        error = error_of(engine.submit(edit_job("bad", prompt="bad")))
        result_of(engine.submit(edit_job("later")))
        assert engine.healthy()
    assert (type(error), error.retryable) == (DeviceOutOfMemory, True)


def test_a_fault_in_one_row_ends_all_rows_of_its_job():
    family = FakeFamily(Fault("bad", "stepped", step=1))
    with running(engine_of(family)) as engine:
        error_of(engine.submit(edit_job("a", 1, 2, 3, 4, 5, 6, prompt="bad")))
        result_of(engine.submit(edit_job("b")))
        stats = engine.stats()
    assert (stats.waiting_rows, stats.running_rows) == (0, 0)


def test_callers_of_equal_prompts_that_fail_together_get_errors_of_their_own():
    engine = engine_of(FakeFamily(Fault("bad", "text_encoder", BackendUnavailable("not now"))))
    futures = [engine.submit(edit_job(f"{i}", prompt="bad")) for i in range(2)]
    with running(engine):
        first, second = (error_of(future) for future in futures)
    assert first is not second
    assert first.__traceback__ is None or first.__traceback__ is not second.__traceback__


# The end of the engine


class Crash(BaseException):
    """No error of a job."""


@pytest.mark.parametrize("where", SPEAKING)
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
    eventually(lambda: str(death) in (engine.failure() or ""))
    with pytest.raises(BackendUnavailable):
        engine.submit(edit_job("late"))
    with pytest.raises(BackendUnavailable, match=re.escape(str(death))):
        engine.check()
    engine.drain(TIMEOUT_S)
    assert not engine.healthy()


def test_an_engine_whose_device_does_not_answer_is_not_healthy_until_it_does():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate), stuck_after_s=0.05)
    with running(engine, gate):
        future = engine.submit(edit_job("slow"))
        gate.wait()
        eventually(lambda: not engine.healthy())
        assert not engine.stats().healthy
        with pytest.raises(BackendUnavailable, match=r"has not answered for 0\.05 s"):
            engine.check()
        gate.open()
        result_of(future)
        eventually(engine.healthy)
        assert engine.failure() is None


def test_an_engine_that_has_nothing_to_do_is_healthy_however_long():
    engine = engine_of(FakeFamily(), stuck_after_s=0.01)
    with running(engine):
        result_of(engine.submit(edit_job("only")))
        time.sleep(0.05)
        assert engine.healthy()


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


def test_a_job_that_is_encoded_while_the_engine_drains_is_refused():
    gate = Gate()
    family = FakeFamily(encode_gate=gate)
    engine = engine_of(family)
    engine.start()
    future = engine.submit(edit_job("a"))
    gate.wait()
    draining = threading.Thread(target=engine.drain, args=(TIMEOUT_S,))
    draining.start()
    assert type(error_of(future)) is BackendUnavailable
    gate.open()
    draining.join(TIMEOUT_S)
    assert family.calls("denoiser") == []


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
