"""How a request's end is counted, whatever way it ends, over an ASGI application that ends in each of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request, Response
from ray.exceptions import ActorDiedError, RayError, TaskCancelledError
from sse_starlette import ServerSentEvent
from starlette.types import Message

from serve.deployments.followed import Followed, followed
from serve.deployments.http import Edge, install_error_handlers
from serve.deployments.streams import EditStream, StreamResponse
from serve.errors import BackendUnavailable, EditError, InvalidRequest
from serve.metrics import RequestCounts
from serve.storage import StorageFull

Route = Callable[[Request], Awaitable[Response]]


class Stream:
    """What `StreamResponse` asks of an `EditStream`. error: its end, after one event."""

    def __init__(self, one: Followed, error: EditError | None = None, goes_on: bool = False) -> None:
        self._one = one
        self._error = error
        self._goes_on = goes_on

    async def events(self) -> AsyncGenerator[ServerSentEvent]:
        yield ServerSentEvent("event")
        if self._error:
            self._one.refused(self._error)
        if self._goes_on:
            await asyncio.Event().wait()


def application(counts: RequestCounts, route: Route, *, valid: bool = True) -> FastAPI:
    """With one route that is counted. valid: whether the model becomes known."""
    api = FastAPI()
    install_error_handlers(api)
    api.add_middleware(Edge)

    async def counted(request: Request) -> Response:
        one = followed(request)
        one.counted = counts.begin()
        await request.body()
        if valid:
            one.accepted("m", 2)
        one.took({"queue": 1500.0, "denoise": 20.0})
        return await route(request)

    api.add_api_route("/edit", counted, methods=["POST"], response_model=None)
    return api


async def posted(api: FastAPI) -> httpx.Response:
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/edit", content=b"x" * 1000)


async def left(api: FastAPI, started: asyncio.Event, fault: RayError | None = None) -> None:
    """A client that goes away once the answer has begun, or its handler runs.

    fault: what Ray Serve's `receive` raises instead of saying so, once; nothing comes after it.
    """
    lost = asyncio.Event()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/edit",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
    }
    messages = iter([{"type": "http.request", "body": b"half", "more_body": False}])

    async def receive() -> Message:
        for message in messages:
            return message
        await started.wait()
        if lost.is_set():
            await asyncio.Event().wait()
        if fault:
            lost.set()
            raise fault
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            started.set()

    await api(scope, receive, send)


def values(counts: RequestCounts) -> dict[str, float]:
    """By the sample's name and its labels' values; those that are 0 are left out."""
    samples = [sample for samples in counts.figures("r").samples.values() for sample in samples]
    return {
        " ".join((sample.name.removeprefix("retouch_"), *sample.labels.values())): sample.value
        for sample in samples
        if sample.value and not sample.name.endswith("_created") and "le" not in sample.labels
    }


def stream_of(stream: Stream) -> StreamResponse:
    return StreamResponse(cast(EditStream, stream), AsyncExitStack(), 60.0, {})


async def test_an_edit_that_succeeds_is_counted_with_all_that_it_took() -> None:
    counts = RequestCounts(["m"])

    async def route(_: Request) -> Response:
        assert values(counts) == {"requests_in_flight": 1}
        return Response(b"y" * 300)

    assert (await posted(application(counts, route))).status_code == 200
    found = values(counts)
    assert found.pop("request_seconds_sum m") > 0
    assert found == {
        "requests_total m 200 ok": 1,
        "request_seconds_count m": 1,
        "images_total m": 2,
        "received_bytes_total": 1000,
        "sent_bytes_total edits": 300,
        "stage_seconds_count m queue": 1,
        "stage_seconds_sum m queue": 1.5,
        "stage_seconds_count m denoise": 1,
        "stage_seconds_sum m denoise": 0.02,
    }


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (InvalidRequest("no"), "400 invalid_value"),
        (BackendUnavailable("later"), "503 backend_unavailable"),
        (HTTPException(405), "405 method_not_allowed"),
        (RuntimeError("a bug"), "500 internal_error"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_refusal_is_counted_by_its_status_and_code_and_takes_no_time(
    error: Exception, end: str, valid: bool
) -> None:
    counts = RequestCounts(["m"])

    async def route(_: Request) -> Response:
        raise error

    response = await posted(application(counts, route, valid=valid))
    assert str(response.status_code) == end.partition(" ")[0]
    assert values(counts) == {
        f"requests_total {'m' if valid else '-'} {end}": 1,
        "received_bytes_total": 1000,
        "sent_bytes_total edits": len(response.content),
    }


async def test_a_stream_that_succeeds_is_an_edit_that_succeeds() -> None:
    counts = RequestCounts(["m"])

    async def route(request: Request) -> Response:
        return stream_of(Stream(followed(request)))

    await posted(application(counts, route))
    found = values(counts)
    assert (found["requests_total m 200 ok"], found["request_seconds_count m"], found["images_total m"]) == (1, 1, 2)


async def test_an_error_within_a_stream_is_counted_as_the_answer() -> None:
    counts = RequestCounts(["m"])

    async def route(request: Request) -> Response:
        return stream_of(Stream(followed(request), StorageFull("full")))

    assert (await posted(application(counts, route))).status_code == 200
    found = values(counts)
    assert found["requests_total m 503 backend_unavailable"] == 1
    assert not any(name.startswith(("request_seconds", "images", "requests_total m 200")) for name in found)


@pytest.mark.parametrize("fault", [None, TaskCancelledError(), ActorDiedError()], ids=lambda one: type(one).__name__)
async def test_a_client_that_leaves_its_stream_is_counted_as_such(fault: RayError | None) -> None:
    counts = RequestCounts(["m"])

    async def route(request: Request) -> Response:
        return stream_of(Stream(followed(request), goes_on=True))

    await asyncio.wait_for(left(application(counts, route), asyncio.Event(), fault), timeout=10)
    found = values(counts)
    assert found["requests_total m 499 client_closed"] == 1
    assert "requests_in_flight" not in found


@pytest.mark.parametrize("fault", [TaskCancelledError(), ActorDiedError()], ids=lambda one: type(one).__name__)
async def test_a_client_is_gone_for_good(fault: RayError) -> None:
    counts = RequestCounts(["m"])

    async def route(request: Request) -> Response:
        assert [await request.receive() for _ in range(2)] == [{"type": "http.disconnect"}] * 2
        return Response()

    started = asyncio.Event()
    started.set()
    await asyncio.wait_for(left(application(counts, route), started, fault), timeout=10)


async def test_a_request_that_is_cancelled_is_one_whose_client_left() -> None:
    counts, runs = RequestCounts(["m"]), asyncio.Event()

    async def route(_: Request) -> Response:
        runs.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(left(application(counts, route), asyncio.Event()))
    await runs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert values(counts) == {"requests_total m 499 client_closed": 1, "received_bytes_total": 4}


async def test_an_answer_that_breaks_off_is_our_fault() -> None:
    counts = RequestCounts(["m"])

    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("a bug")

    async def route(_: Request) -> Response:
        return Broken()

    await posted(application(counts, route))
    assert values(counts)["requests_total m 500 internal_error"] == 1


async def test_what_is_not_an_edit_is_not_counted() -> None:
    counts = RequestCounts(["m"])
    api = application(counts, cast(Any, None))

    async def other() -> Response:
        return Response(b"fine")

    api.add_api_route("/edit", other, methods=["GET"], response_model=None)
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/edit")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404
    assert values(counts) == {}


def test_a_replayed_answer_counts_its_stages_once() -> None:
    counts = RequestCounts(["m"])
    for replayed in (False, True):
        request = counts.begin()
        request.accepted("m", 1)
        request.took({"denoise": 1000.0}, replayed=replayed)
        request.end((200, "ok"), 10, 20)
    found = values(counts)
    assert (found["stage_seconds_count m denoise"], found["replayed_requests_total m"]) == (1, 1)
    assert (found["request_seconds_count m"], found["images_total m"]) == (2, 2)


def test_what_may_alarm_is_told_before_it_happens() -> None:
    samples = RequestCounts(["m"]).figures("r").samples["retouch_requests"]
    told = {tuple(sample.labels.values()) for sample in samples}
    for model in ("m", "-"):
        for end in (("503", "backend_unavailable"), ("500", "internal_error"), ("429", "server_overloaded")):
            assert (model, *end) in told
