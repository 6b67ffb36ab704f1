"""The engine from outside: jobs in, futures out, with a fake family that shows each batch and can be stopped in it."""

import gc
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from serve.engine.engine import Engine
from serve.errors import BackendUnavailable, EditError, InternalError, InvalidRequest, Overloaded
from serve.types import EditJob, EditResult
from tests.fake_family import TIMEOUT_S, FakeFamily, Fault, Gate, Where, drawn_alone, edit_job

CACHE_BYTES = 2**20


@pytest.fixture(autouse=True)
def one_kernel_thread() -> Generator[None]:
    """The products are too small to be worth more, which only fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(family: FakeFamily, *, max_batch: int = 4, invariant: bool = True, max_queued_rows: int = 64) -> Engine:
    return Engine(
        family,
        batch_invariant=invariant,
        max_batch=max_batch,
        max_queued_rows=max_queued_rows,
        cache_bytes=CACHE_BYTES,
    )


@contextmanager
def running(engine: Engine, *gates: Gate) -> Generator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        for gate in gates:
            gate.open()
        engine.drain(TIMEOUT_S)


def result_of(future: Future[EditResult]) -> EditResult:
    return future.result(TIMEOUT_S)


def error_of(future: Future[EditResult]) -> EditError:
    error = future.exception(TIMEOUT_S)
    assert isinstance(error, EditError)
    return error


# Results


def test_a_job_ends_with_one_picture_a_seed_in_the_seeds_order():
    job = edit_job("a", 30, 10, 20, steps=3, references=1)
    with running(engine_of(FakeFamily(), max_batch=1)) as engine:
        images = result_of(engine.submit(job)).images
    assert len(images) == 3
    for image, seed in zip(images, job.seeds, strict=True):
        np.testing.assert_array_equal(image, drawn_alone(job, seed, 1)[0])


def test_classifier_free_guidance_makes_both_passes():
    job = edit_job("a", 5, guidance=4.0)
    with running(engine_of(FakeFamily(), max_batch=2)) as engine:
        image = result_of(engine.submit(job)).images[0]
    np.testing.assert_array_equal(image, drawn_alone(job, 5, 2)[0])


@pytest.mark.parametrize("place", range(4))
def test_the_same_seed_gives_the_same_bytes_at_every_place_of_a_full_batch(place: int):
    family = FakeFamily()
    jobs = [edit_job(f"other {i}", i, prompt=f"as in {i}", picture=i) for i in range(3)]
    jobs.insert(place, edit_job("it", 7))
    engine = engine_of(family, invariant=False)
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        wait(futures, TIMEOUT_S)
    assert any(call.index("it:7") == place for call in family.calls if len(set(call)) == 4)
    assert family.final_latents["it:7"] == drawn_alone(edit_job("it", 7), 7, 4)[1]


def test_an_image_of_a_larger_n_has_the_bytes_of_its_seed_alone():
    family = FakeFamily()
    with running(engine_of(family, invariant=False)) as engine:
        result_of(engine.submit(edit_job("many", 5, 6, 7, 8, 9)))
        for seed in (5, 6, 7, 8, 9):
            result_of(engine.submit(edit_job("alone", seed)))
    for seed in (5, 6, 7, 8, 9):
        assert family.final_latents[f"many:{seed}"] == family.final_latents[f"alone:{seed}"]


def test_nothing_draws_from_the_global_generator():
    before = torch.random.get_rng_state()
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(edit_job("a", 1, 2)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_strength_of_zero_answers_the_canvas():
    job = edit_job("a", 1, 2, strength=0.0)
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        result = result_of(engine.submit(job))
    assert [image is job.canvas for image in result.images] == [True, True]
    assert (family.calls, result.usage.output_tokens) == ([], 0)


def test_a_row_with_no_step_left_is_the_canvas():
    job = edit_job("a", 1, 2, steps=0)
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        images = result_of(engine.submit(job)).images
    assert [image is job.canvas for image in images] == [True, True]
    assert family.calls == []


def test_usage_counts_the_prompt_the_sources_and_every_output():
    job = edit_job("a", 1, 2, 3, prompt="four words are here", guidance=3.0, side=8, references=2)
    with running(engine_of(FakeFamily())) as engine:
        usage = result_of(engine.submit(job)).usage
    cells = (8 // 2) ** 2
    assert (usage.text_tokens, usage.image_tokens, usage.output_tokens) == (4, 3 * cells, 3 * cells)


def test_timings_name_every_stage_of_the_engine():
    with running(engine_of(FakeFamily())) as engine:
        timings_ms = result_of(engine.submit(edit_job("a"))).timings_ms
    assert set(timings_ms) == {"queue", "encode", "denoise", "vae"}
    assert min(timings_ms.values()) >= 0
    assert timings_ms["denoise"] > 0


# Batches


def test_a_job_joins_at_a_step_boundary_while_others_run():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        engine.submit(edit_job("a", steps=4))
        assert gate.wait() == ("a:1",)
        engine.submit(edit_job("b", steps=4))
        assert set(gate.step()) == {"a:1", "b:1"}


def test_a_finished_row_leaves_its_place_to_one_that_waits():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=2), gate) as engine:
        engine.submit(edit_job("a", steps=2))
        assert gate.wait() == ("a:1",)
        engine.submit(edit_job("b", steps=3))
        engine.submit(edit_job("c", steps=3))
        assert set(gate.step()) == {"a:1", "b:1"}
        assert set(gate.step()) == {"b:1", "c:1"}


def test_a_short_job_overtakes_a_long_one_in_a_full_batch():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=1), gate) as engine:
        engine.submit(edit_job("long", steps=20))
        assert gate.wait() == ("long:1",)
        engine.submit(edit_job("short", steps=2))
        assert [gate.step() for _ in range(3)] == [("short:1",), ("short:1",), ("long:1",)]


def test_pictures_of_different_sizes_never_share_a_call():
    family = FakeFamily()
    engine = engine_of(family)
    futures = [engine.submit(edit_job(f"{side}-{i}", side=side)) for i in range(3) for side in (8, 12)]
    with running(engine):
        wait(futures, TIMEOUT_S)
    assert all(len({name.split("-")[0] for name in call}) == 1 for call in family.calls)


def test_one_job_is_encoded_at_a_boundary():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate))
    for i in range(3):
        engine.submit(edit_job(f"{i}", prompt=f"do {i}", steps=9))
    with running(engine, gate):
        assert [len(gate.wait()), len(gate.step()), len(gate.step())] == [1, 2, 3]


def test_jobs_whose_encodings_are_kept_join_together():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate))
    with running(engine, gate):
        engine.submit(edit_job("a", steps=9))
        gate.wait()
        for name in "bcd":
            engine.submit(edit_job(name, steps=9))
        assert set(gate.step()) == {"a:1", "b:1", "c:1", "d:1"}


def test_a_sweep_of_seeds_and_a_retry_encode_once():
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        for job in (edit_job("a", 1, 2, 3), edit_job("retry", 1, 2, 3), edit_job("sweep", 4)):
            result_of(engine.submit(job))
        result_of(engine.submit(edit_job("other words", prompt="make it red")))
        stats = engine.stats()
    assert (family.encoded_prompts, family.encoded_images) == (["make it blue", "make it red"], 1)
    assert (stats.cache_misses, stats.cache_hits) == (3, 5)


# Cancellation


def by_id(engine: Engine, future: Future[EditResult], request_id: str) -> None:
    engine.cancel(request_id)


def by_future(engine: Engine, future: Future[EditResult], request_id: str) -> None:
    assert future.cancel()


Cancel = Callable[[Engine, Future[EditResult], str], None]


@pytest.mark.parametrize("cancel", [by_id, by_future])
def test_a_cancelled_row_leaves_the_batch_at_the_next_step(cancel: Cancel):
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        leaving = engine.submit(edit_job("leaving", steps=50))
        assert gate.wait() == ("leaving:1",)
        staying = engine.submit(edit_job("staying", steps=3))
        assert set(gate.step()) == {"leaving:1", "staying:1"}
        cancel(engine, leaving, "leaving")
        assert gate.step() == ("staying:1",)
        gate.open()
        result_of(staying)
        stats = engine.stats()
    assert leaving.cancelled()
    assert (stats.cancelled_rows, stats.wasted_row_steps, stats.row_steps) == (1, 2, 2 + 3)


@pytest.mark.parametrize("cancel", [by_id, by_future])
def test_a_cancelled_job_that_waits_frees_its_places_at_once(cancel: Cancel):
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=1, max_queued_rows=2), gate) as engine:
        engine.submit(edit_job("running"))
        gate.wait()
        waiting = engine.submit(edit_job("waiting", 1, 2))
        with pytest.raises(Overloaded):
            engine.submit(edit_job("refused"))
        cancel(engine, waiting, "waiting")
        assert engine.stats().waiting_rows == 0
        engine.submit(edit_job("accepted", 1, 2))
        assert engine.stats().waiting_rows == 2
    assert waiting.cancelled()


def test_cancelling_is_idempotent_and_unknown_ids_change_nothing():
    with running(engine_of(FakeFamily())) as engine:
        done = engine.submit(edit_job("a"))
        result_of(done)
        for request_id in ("a", "a", "never heard of"):
            engine.cancel(request_id)
        assert not done.cancelled()
        assert engine.stats().cancelled_rows == 0


def test_a_job_cancelled_while_it_is_encoded_never_runs():
    gate = Gate()
    family = FakeFamily(encode_gate=gate)
    with running(engine_of(family), gate) as engine:
        future = engine.submit(edit_job("a"))
        gate.wait()
        engine.cancel("a")
        gate.open()
        result_of(engine.submit(edit_job("b")))
    assert future.cancelled()
    assert {name for call in family.calls for name in call} == {"b:1"}


def test_cancelling_one_future_leaves_another_job_of_the_same_id():
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
        engine.cancel("a")
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


def test_an_unavailable_backend_fails_the_batch_and_the_engine_goes_on():
    gate = Gate()
    family = FakeFamily(Fault("bad", "denoise", BackendUnavailable("the executor is gone"), step=1), step_gate=gate)
    with running(engine_of(family), gate) as engine:
        bad = engine.submit(edit_job("bad", prompt="bad"))
        gate.wait()
        beside = engine.submit(edit_job("beside"))
        assert set(gate.step()) == {"bad:1", "beside:1"}
        gate.open()
        errors = [error_of(bad), error_of(beside)]
        assert [type(error) for error in errors] == [BackendUnavailable] * 2
        assert errors[0] is not errors[1]
        result_of(engine.submit(edit_job("later")))
        assert engine.healthy()


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


@pytest.mark.parametrize("where", ["encode_text", "denoise", "decode"])
@pytest.mark.parametrize("death", [Crash("a bug"), torch.AcceleratorError("CUDA error")], ids=["bug", "device"])
def test_a_dead_engine_fails_every_job_and_says_so(where: Where, death: BaseException):
    engine = engine_of(FakeFamily(Fault("bad", where, death)), max_batch=1)
    futures = [engine.submit(edit_job("bad", prompt="bad")), *(engine.submit(edit_job(name)) for name in "abc")]
    assert engine.failure() is None
    engine.start()
    assert {type(error_of(future)) for future in futures} == {BackendUnavailable}
    assert not engine.healthy()
    assert not engine.stats().healthy
    assert type(death).__name__ in (engine.failure() or "")
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


def test_an_engine_that_never_started_fails_its_jobs_when_drained():
    engine = engine_of(FakeFamily())
    future = engine.submit(edit_job("a"))
    assert not engine.healthy()
    engine.drain(TIMEOUT_S)
    assert type(future.exception(0)) is BackendUnavailable
    with pytest.raises(RuntimeError, match="has stopped"):
        engine.start()


def test_nothing_of_a_job_is_kept_after_its_end():
    family = FakeFamily(Fault("bad", "advance", step=2))
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
                engine.cancel(job.request_id)

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
