"""How a call's end is told to the client: in time, past its time, refused."""

import asyncio
from collections.abc import Generator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.exceptions import RequestCancelledError
from starlette.datastructures import Headers

from serve.deployments.bodies import BodyBudget
from serve.deployments.calls import Call, answered, refusals_as_results, succeeded, told
from serve.deployments.deadline import TIME_LIMIT_HEADERS, Deadline, time_limit_s
from serve.deployments.envelopes import error_response
from serve.errors import BackendUnavailable, InvalidImage, InvalidRequest, Overloaded, RequestTimeout
from serve.settings import LimitSettings

OWN, OPENAIS = TIME_LIMIT_HEADERS


async def test_what_takes_longer_than_its_time_is_cancelled_and_a_timeout() -> None:
    cancelled = asyncio.Event()

    async def edit() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(RequestTimeout, match=r"did not finish within 0\.01 s"):
        async with Deadline(0.01).kept():
            await edit()
    assert cancelled.is_set()


async def test_what_is_left_of_a_deadline_shrinks_and_ends_at_nothing() -> None:
    long = Deadline(1000.0)
    first = long.left_s()
    short = Deadline(0.001)
    await asyncio.sleep(0.01)
    assert 0 < long.left_s() < first <= 1000.0
    assert short.left_s() == 0.0


@pytest.mark.parametrize(
    ("headers", "limit_s"),
    [
        ({}, 600.0),
        ({OWN: "30"}, 30.0),
        ({OPENAIS: "30.5"}, 30.5),
        ({OWN: "20", OPENAIS: "30"}, 20.0),
        ({OWN: "30", OPENAIS: "20"}, 20.0),
        ({OWN: "7000", OPENAIS: "900"}, 600.0),
        ({OWN: "5e-1"}, 0.5),
        ({OPENAIS: "1e-05"}, 1e-5),
    ],
)
def test_the_shortest_of_all_time_limits_counts(headers: dict[str, str], limit_s: float) -> None:
    assert time_limit_s(Headers(headers), most_s=600.0) == limit_s


def test_of_a_header_that_is_sent_twice_the_shorter_time_counts() -> None:
    twice = [(OWN.encode(), b"5"), (OWN.encode(), b"9")]
    assert time_limit_s(Headers(raw=twice), most_s=600.0) == 5.0
    assert time_limit_s(Headers(raw=twice[::-1]), most_s=600.0) == 5.0


@pytest.mark.parametrize("name", TIME_LIMIT_HEADERS)
@pytest.mark.parametrize(
    "value", ["", "soon", "0", "0.0", "-1", "nan", "inf", "1e999", "1_0", "1 0", "5s", "٣", "x" * 999]
)
def test_a_header_that_holds_no_time_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the header {name} is ") as refused:
        time_limit_s(Headers(raw=[(name.encode(), value.encode())]), most_s=600.0)
    assert len(refused.value.message) < 200


@given(st.floats(min_value=0, exclude_min=True, max_value=1e9, allow_subnormal=False))
def test_every_time_that_openais_client_may_send_is_read_as_it_was_meant(seconds: float) -> None:
    assert time_limit_s(Headers({OPENAIS: str(seconds)}), most_s=1e10) == seconds


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


class CancelledCall:
    """One that Ray cancelled, before whoever waits for it."""

    def __init__(self) -> None:
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        raise RequestCancelledError("a")
        yield

    def __aiter__(self) -> "CancelledCall":
        return self

    async def __anext__(self) -> object:
        raise RequestCancelledError("a")

    def cancel(self) -> None:
        self.cancelled = True


async def test_a_call_that_was_cancelled_is_no_fault_of_the_servers() -> None:
    call = CancelledCall()
    with pytest.raises(asyncio.CancelledError):
        await answered(cast("Call", call))
    with pytest.raises(asyncio.CancelledError):
        await anext(told(cast("Call", call)))
    assert call.cancelled


async def test_a_request_too_many_is_told_the_work_that_is_queued() -> None:
    asked: list[float] = []

    async def queued_s() -> float:
        asked.append(41.3)
        return asked[-1]

    bodies = BodyBudget(LimitSettings(requests_in_flight=1))
    async with bodies.admit(queued_s):
        assert not asked, "nobody is refused"
        with pytest.raises(Overloaded) as refused:
            async with bodies.admit(queued_s):
                raise AssertionError("one more than the limit came in")
    assert error_response(refused.value).headers["retry-after"] == "42"
    async with bodies.admit(queued_s):
        assert len(asked) == 1


async def test_a_server_that_stops_takes_nobody_and_knows_who_is_left() -> None:
    async def queued_s() -> float:
        return 0.0

    bodies = BodyBudget(LimitSettings())
    async with bodies.admit(queued_s):
        bodies.close()
        assert bodies.requests == 1
        with pytest.raises(BackendUnavailable) as refused:
            async with bodies.admit(queued_s):
                raise AssertionError("one came in")
    assert error_response(refused.value).headers["x-should-retry"] == "true"
    assert bodies.requests == 0


def test_work_that_a_model_shuts_down_before_should_be_sent_again() -> None:
    response = error_response(BackendUnavailable("the model is shutting down; try again"))
    assert (response.status_code, response.headers["x-should-retry"]) == (503, "true")
