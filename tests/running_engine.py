"""Engines over the fake family, and how their futures are read."""

from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
import torch

from serve.engine.engine import Engine
from serve.errors import EditError
from serve.types import EditResult
from tests.fake_family import TIMEOUT_S, FakeFamily, Gate

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
