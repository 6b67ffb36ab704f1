"""How a call's end is told to the client: in time, past its time, refused."""

import asyncio

import pytest

from serve.deployments.calls import deadline, refusals_as_results, succeeded
from serve.errors import InvalidImage, RequestTimeout


async def test_what_takes_longer_than_its_time_is_cancelled_and_a_timeout() -> None:
    cancelled = asyncio.Event()

    async def edit() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(RequestTimeout, match=r"did not finish within 0\.01 s"):
        async with deadline(0.01):
            await edit()
    assert cancelled.is_set()


async def test_a_refusal_crosses_as_a_result_and_is_raised_again() -> None:
    @refusals_as_results
    async def decode() -> str:
        raise InvalidImage("images[0] is cut short", param="images[0]")

    result = await decode()
    assert isinstance(result, InvalidImage)
    with pytest.raises(InvalidImage, match="cut short"):
        succeeded(result)


async def test_an_answer_crosses_as_it_is() -> None:
    @refusals_as_results
    async def decode() -> str:
        return "pixels"

    assert succeeded(await decode()) == "pixels"
