"""Everything at once: jobs of every kind, faults, short memory, time limits and cancellations at every moment."""

import gc
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from typing import Literal

import numpy as np
import pytest
import torch

from serve.engine.engine import Engine
from serve.errors import BackendUnavailable, DeviceOutOfMemory, InternalError, Overloaded
from serve.types import EditJob, EditResult
from tests.fake_backend import FakeBackend, FakeMemory
from tests.fake_family import FakeFamily, Fault, drawn_alone, edit_job
from tests.gates import TIMEOUT_S
from tests.running_engine import engine_of, error_of, known_costs, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.waiting import eventually

JOBS = 200
CLIENTS = 4
FAULTS = (
    Fault("bad", "decode"),
    Fault("bad words", "encode_text"),
    Fault("poison", "nan in denoiser", step=1),
    Fault("large", "denoiser", torch.OutOfMemoryError("2 GiB"), step=1),
)


def a_random_job(draw: random.Random, request_id: str) -> EditJob:
    prompts = ["blue", "red", *(fault.name for fault in FAULTS)]
    return edit_job(
        request_id,
        *(draw.randrange(2**64) for _ in range(draw.choice([1, 1, 1, 2, 5]))),
        prompt=draw.choice(prompts) if draw.random() < 0.5 else f"as in {request_id}",
        steps=draw.choice([1, 2, 4, 9]),
        strength=draw.choice([1.0, 1.0, 0.5, 0.0]),
        guidance=draw.choice([1.0, 3.0]),
        side=draw.choice([8, 12]),
        picture=draw.randrange(3),
        priority=draw.choice(["low", "normal", "normal", "high"]),
    )


def family_of(invariant: bool) -> FakeFamily:
    """One whose device has memory for about ten rows, and for calls of three where they may be smaller."""
    fits = {"denoiser": 3, "text_encoder": 3, "decoder": 3} if invariant else {}
    memory = FakeMemory(capacity=50_000)
    return FakeFamily(*FAULTS, backend=FakeBackend(invariant, fits, memory))


@pytest.mark.parametrize("batching", ["steps", "requests", "none"])
@pytest.mark.parametrize("invariant", [True, False], ids=["any", "fixed"])
def test_two_hundred_mixed_jobs_with_cancellations_all_end_exactly_once(
    invariant: bool, batching: Literal["steps", "requests", "none"], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL + 1, "serve")  # what is logged holds on to tracebacks, and they to tensors
    draw = random.Random(3)
    family = family_of(invariant)
    profile = known_costs(family, edit_job("a"), row_bytes=4000, peak_bytes=1000)
    engine = engine_of(family, max_queued_rows=10**6, batching=batching, profile=profile)
    jobs = [a_random_job(draw, f"{i}") for i in range(JOBS)]
    leave = {job.request_id: draw.choice([0, 1, draw.randrange(2, 20)]) for job in jobs[::3]}
    hurried = {job.request_id for job in jobs if draw.random() < 0.1}
    ends: Counter[str] = Counter()
    futures: dict[str, Future[EditResult]] = {}

    def send(mine: list[EditJob]) -> None:
        for job in mine:
            limit_s = 0.5 if job.request_id in hurried else None
            future = submitted(lambda job=job, limit_s=limit_s: engine.submit(job, limit_s))
            futures[job.request_id] = future
            future.add_done_callback(lambda _, request_id=job.request_id: ends.update([request_id]))
            if job.request_id in leave:
                cancel_after(leave[job.request_id], engine, future)

    with running(engine):
        clients = [threading.Thread(target=send, args=(jobs[i::CLIENTS],)) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(TIMEOUT_S)
        assert not wait(futures.values(), TIMEOUT_S).not_done
        stats = engine.stats()
        eventually(lambda: nothing_is_left(family))
    assert ends == Counter({job.request_id: 1 for job in jobs})
    assert (stats.waiting_rows, stats.running_rows, stats.queued_s) == (0, 0, 0)
    for job in jobs:
        bucket = 0 if invariant else 4
        check_end(job, futures[job.request_id], job.request_id in leave, job.request_id in hurried, bucket)
    assert sum(succeeded(future) for future in futures.values()) > JOBS / 4


def cancel_after(steps: int, engine: Engine, future: Future[EditResult]) -> None:
    last = engine.stats().steps + steps
    eventually(lambda: future.done() or engine.stats().steps >= last)
    future.cancel()


def submitted(submit: Callable[[], Future[EditResult]]) -> Future[EditResult]:
    """A refusal as the future that it would have been."""
    try:
        return submit()
    except Overloaded as error:
        future: Future[EditResult] = Future()
        future.set_exception(error)
        return future


def nothing_is_left(family: FakeFamily) -> bool:
    gc.collect()
    return all(made() is None for made in family.made)


def succeeded(future: Future[EditResult]) -> bool:
    return not future.cancelled() and future.exception(0) is None


def check_end(job: EditJob, future: Future[EditResult], may_cancel: bool, was_hurried: bool, bucket: int) -> None:
    if future.cancelled():
        assert may_cancel
        with pytest.raises(CancelledError):
            future.result(0)
    elif isinstance(error := future.exception(0), Overloaded):
        assert was_hurried
    elif isinstance(error, InternalError):
        assert job.prompt in ("bad", "bad words", "poison")
    elif error:
        assert type(error) is DeviceOutOfMemory  # its own, or that of a row beside it
    elif job.strength:
        for image, seed in zip(future.result(0).images, job.seeds, strict=True):
            np.testing.assert_array_equal(image, drawn_alone(job, seed, bucket)[0])


@pytest.mark.parametrize("after_steps", [0, 1, 3, 10])
def test_a_drain_in_the_middle_ends_every_job_once(after_steps: int):
    draw = random.Random(after_steps)
    family = family_of(invariant=True)
    engine = engine_of(family, max_queued_rows=10**6)
    engine.start()
    ends: Counter[str] = Counter()
    futures: list[Future[EditResult]] = []
    for i in range(40):
        future = engine.submit(a_random_job(draw, f"{i}"))
        future.add_done_callback(lambda _, i=i: ends.update([f"{i}"]))
        futures.append(future)
    eventually(lambda: engine.stats().steps >= after_steps)
    engine.drain(TIMEOUT_S)
    assert ends == Counter({f"{i}": 1 for i in range(40)})
    errors = [error_of(future) for future in futures if not succeeded(future)]
    assert {type(error) for error in errors} <= {BackendUnavailable, InternalError, DeviceOutOfMemory}
    assert all(error.retryable for error in errors if isinstance(error, BackendUnavailable))
