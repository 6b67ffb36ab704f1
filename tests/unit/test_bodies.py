"""Bodies that come in small pieces: each is counted, and none costs more than those before it."""

import time
from collections.abc import AsyncGenerator
from typing import cast

import pytest
from fastapi import Request

from serve.deployments.bodies import BodyBudget
from serve.errors import RequestTooLarge
from serve.settings import LimitSettings

LIMIT = 1024


class Pieces:
    """A request whose body comes byte by byte."""

    def __init__(self, pieces: int) -> None:
        self.headers = {"content-type": "application/json"}
        self.read = 0
        self._pieces = pieces

    async def stream(self) -> AsyncGenerator[bytes]:
        for _ in range(self._pieces):
            self.read += 1
            yield b"x"


async def _read(bodies: BodyBudget, pieces: Pieces) -> int:
    async with bodies.read(cast("Request", pieces)) as body:
        assert isinstance(body, bytes)
        return len(body)


async def test_a_body_in_pieces_is_refused_at_the_one_that_passes_the_limit():
    bodies, small, large = BodyBudget(LimitSettings(body_bytes=LIMIT)), Pieces(LIMIT), Pieces(2 * LIMIT)
    assert await _read(bodies, small) == LIMIT
    with pytest.raises(RequestTooLarge):
        await _read(bodies, large)
    assert large.read == LIMIT + 1


async def test_what_a_body_took_is_free_once_it_is_read_or_refused():
    bodies = BodyBudget(LimitSettings(body_bytes=LIMIT, bodies_bytes=LIMIT + 1))
    for _ in range(3):
        assert await _read(bodies, Pieces(LIMIT)) == LIMIT
        with pytest.raises(RequestTooLarge):
            await _read(bodies, Pieces(2 * LIMIT))


async def test_the_work_of_a_body_grows_with_its_pieces_and_not_with_their_square():
    """Of 16 times the pieces: 16 times the work, not 256; counted in this thread's own seconds, at their least."""
    few, many = [await _least_work_s(pieces) for pieces in (2_000, 32_000)]
    assert many < 64 * few


async def _least_work_s(pieces: int) -> float:
    seconds: list[float] = []
    for _ in range(3):
        began_s = time.thread_time()
        await _read(BodyBudget(LimitSettings()), Pieces(pieces))
        seconds.append(time.thread_time() - began_s)
    return min(seconds)
