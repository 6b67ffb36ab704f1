"""Answers that come before the request's body has.

A refusal is often sure before the body is read. Were the connection closed then, with bytes on the way, TCP would reset
it, and the client, or a proxy on its behalf, would see a broken connection in place of the answer (RFC 9112, section
9.6). So what is left of the body is read and dropped before the answer ends.
"""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_S = 30.0
SILENCE_S = 5.0
"""As nginx's lingering_time and lingering_timeout."""


class Linger:
    """ASGI layer: an answer goes out at once, but ends after the body.

    linger_s: in all, and silence_s: without a byte, that the rest of a body is waited for.
    """

    def __init__(self, app: ASGIApp, linger_s: float = LINGER_S, silence_s: float = SILENCE_S) -> None:
        self._app = app
        self._linger_s, self._silence_s = linger_s, silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(receive)
        held = False

        async def send_unended(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not body.ended:
                held = True
                message = {**message, "more_body": True}
            await send(message)

        await self._app(scope, body.receive, send_unended)
        if held:
            await self._drop(body)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    async def _drop(self, body: "_Body") -> None:
        until = time.monotonic() + self._linger_s
        while not body.ended and (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(left, self._silence_s)):
                    await body.receive()
            except TimeoutError:
                return


class _Body:
    """ended: whether nothing of it is to come any more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.ended = self.ended or not message.get("more_body", False)
        return message
