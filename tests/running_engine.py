"""Engines over the fake family, and how their futures are read."""

import math
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import torch

from serve.engine.engine import Engine, EngineOptions
from serve.engine.profile import Profile
from serve.errors import EditError
from serve.types import EditJob, EditResult
from tests.fake_family import FakeFamily
from tests.gates import TIMEOUT_S, Gate

CACHE_BYTES = 2**20
MAX_BATCH = 4


@pytest.fixture(autouse=True)
def one_kernel_thread() -> Generator[None]:
    """The products are too small to be worth more, which only fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(
    family: FakeFamily,
    *,
    max_batch: int = MAX_BATCH,
    max_queued_rows: int = 64,
    batching: Literal["steps", "requests", "none"] = "steps",
    memory_share: float = 0.9,
    step_log: Path | None = None,
    stuck_after_s: float = math.inf,
    profile: Profile | None = None,
) -> Engine:
    options = EngineOptions(
        max_batch=max_batch,
        max_queued_rows=max_queued_rows,
        cache_bytes=CACHE_BYTES,
        batching=batching,
        memory_share=memory_share,
        step_log=step_log,
        stuck_after_s=stuck_after_s,
    )
    return Engine(family, family.backend, options, profile)


def known_costs(
    family: FakeFamily,
    job: EditJob,
    *,
    max_batch: int = MAX_BATCH,
    step_s: float | None = None,
    encode_s: float | None = None,
    decode_s: float | None = None,
    row_bytes: float | None = None,
    peak_bytes: float | None = None,
) -> Profile:
    """A profile that was told what rows like those of the job cost. step_s and peak_bytes: of a call of any size."""
    plan = family.plan(job)
    profile = Profile(max_batch, fixed=not family.backend.batch_invariant)
    profile.know(plan.key, plan.tokens)
    told = (
        (profile.seconds, 1, step_s),
        (profile.seconds, max_batch, step_s),
        (profile.encode_s, 1, encode_s),
        (profile.decode_s, 1, decode_s),
        (profile.row_bytes, 1, row_bytes),
        (profile.peak_bytes, 1, peak_bytes),
        (profile.peak_bytes, max_batch, peak_bytes),
    )
    for curve, passes, value in told:
        if value is not None:
            curve.measured(plan.key, plan.tokens, passes, value)
    return profile


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
