"""Bounds of waiting for a body that nobody needs any more."""

import asyncio
import time
from collections.abc import Callable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from serve.deployments.linger import Linger

SCOPE: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
PIECE: Message = {"type": "http.request", "body": b"x", "more_body": True}
END: Message = {"type": "http.request", "body": b"x", "more_body": False}
LEFT: Message = {"type": "http.disconnect"}


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads nothing."""
    await PlainTextResponse("no", 401)(scope, receive, send)


async def read_and_answer(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await PlainTextResponse("yes")(scope, receive, send)


class Connection:
    """coming: by its number, each message of the client; None: there is none and never will be."""

    def __init__(self, coming: Callable[[int], Message | None]) -> None:
        self._coming = coming
        self.received = 0
        self.sent: list[Message] = []
        self.received_before: list[int] = []
        """How many messages of the client were received before each that was sent."""

    async def receive(self) -> Message:
        message = self._coming(self.received)
        await asyncio.sleep(0)
        if message is None:
            return await asyncio.Future()
        self.received += 1
        return message

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.received_before.append(self.received)


@pytest.mark.parametrize("last", [END, LEFT])
async def test_an_early_answer_is_sent_at_once_and_ends_after_the_body(last: Message) -> None:
    connection = Connection(lambda number: PIECE if number < 5 else last)
    await Linger(refuse)(SCOPE, connection.receive, connection.send)
    start, body, end = connection.sent
    assert start["status"] == 401
    assert (body["body"], body["more_body"]) == (b"no", True)
    assert (end["body"], end["more_body"]) == (b"", False)
    assert connection.received_before == [0, 0, 6]


async def test_an_answer_to_a_whole_body_passes_as_it_is() -> None:
    connection = Connection(lambda number: PIECE if number < 5 else END)
    await Linger(read_and_answer)(SCOPE, connection.receive, connection.send)
    _, body = connection.sent
    assert (body["body"], body.get("more_body", False)) == (b"yes", False)
    assert connection.received == 6


async def test_a_silent_client_is_waited_for_no_longer_than_told() -> None:
    connection = Connection(lambda number: PIECE if number < 3 else None)
    started = time.monotonic()
    await Linger(refuse, silence_s=0.2)(SCOPE, connection.receive, connection.send)
    assert 0.2 <= time.monotonic() - started < 30
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_client_that_never_ends_is_waited_for_no_longer_than_told() -> None:
    connection = Connection(lambda _: PIECE)
    started = time.monotonic()
    await Linger(refuse, linger_s=0.3)(SCOPE, connection.receive, connection.send)
    assert 0.3 <= time.monotonic() - started < 30
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
