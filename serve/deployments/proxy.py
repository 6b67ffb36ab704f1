"""Around Ray Serve's HTTP proxy: what it answers by itself gets the contract's envelope, and its switches stay ours.

Ray calls `middlewares` in the proxy's process when the variable that `install` sets names it.
"""

import logging
import os
import re
from uuid import uuid4

from sse_starlette import ServerSentEvent
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.deployments.envelopes import error_response
from serve.deployments.linger import Linger
from serve.deployments.logs import adopt_serve_logging, follow, say
from serve.errors import BackendUnavailable, EditError, Overloaded, RequestTimeout
from serve.schema import ERROR_EVENT, ErrorBody

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
RETRY_AFTER_S = 5.0

logger = logging.getLogger(__name__)

_ALLOWED = {
    b"x-request-id": re.compile(rb"[\x21-\x7e]{1,128}"),
    b"x-request-disconnect-disabled": re.compile(rb"(?!)"),
    b"x-session-id": re.compile(rb"(?!)"),
    b"serve_multiplexed_model_id": re.compile(rb"(?!)"),
}
"""Headers that Ray's proxy acts on, with the values that pass: one keeps work running that nobody waits for, and bytes
that are not UTF-8 would make it fail."""

_TIME_LIMIT = b"x-request-timeout-seconds"
"""Ray acts on it too, and takes what is no number for no limit; the application refuses that, so it has to get it."""


def install() -> None:
    """Have the proxies that are started from this process, and its children, call `middlewares`."""
    os.environ[VARIABLE] = f"{__name__}:{middlewares.__name__}"


def middlewares() -> list[Middleware]:
    adopt_serve_logging("INFO")
    return [Middleware(ProxyEdge), Middleware(Linger)]  # the last is outermost


class ProxyEdge:
    """ASGI layer. Ray's proxy answers in plain text, our application never does: that tells the two apart.

    Where the application's process dies with a request in it, the proxy sends nothing at all, and of a stream that has
    begun nothing more.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = [(name, _readable(name, value)) for name, value in scope["headers"] if _passes(name, value)]
        scope = {**scope, "headers": headers}
        started = replaced = left = streams = False
        request_id = ""

        async def receive_noting() -> Message:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        async def send_enveloped(message: Message) -> None:
            nonlocal started, replaced, streams, request_id
            started = True
            if message["type"] == "http.response.start":
                streams = _media_type(message).startswith("text/event-stream")
                request_id = Headers(raw=message["headers"]).get("x-request-id", "")
            elif not message.get("more_body", False):
                streams = False
            if message["type"] == "http.response.start" and _is_rays_error(message):
                replaced = True
                await _refuse(_translated(message["status"]), request_id, scope, receive, send)
            elif not replaced:
                await send(message)

        await self._app(scope, receive_noting, send_enveloped)
        if streams and not left:
            _tell_refused(error := _translated(500), request_id)
            await send({"type": "http.response.body", "body": _last_event(error), "more_body": False})
        if not started and not left:
            request_id = Headers(raw=headers).get("x-request-id") or uuid4().hex
            await _refuse(_translated(500), request_id, scope, receive, send)
        return None


async def _refuse(error: EditError, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
    _tell_refused(error, request_id)
    response = error_response(error)
    response.headers["x-request-id"] = request_id
    await response(scope, receive, send)


def _tell_refused(error: EditError, request_id: str) -> None:
    follow(request_id)
    say(logger, "refused", status=error.status, code=error.code)


def _passes(name: bytes, value: bytes) -> bool:
    return name not in _ALLOWED or _ALLOWED[name].fullmatch(value) is not None


def _readable(name: bytes, value: bytes) -> bytes:
    return value.decode("ascii", "replace").encode("ascii", "replace") if name == _TIME_LIMIT else value


def _is_rays_error(start: Message) -> bool:
    return start["status"] >= 400 and not _media_type(start).startswith("application/json")


def _media_type(start: Message) -> str:
    return Headers(raw=start["headers"]).get("content-type", "")


def _last_event(error: EditError) -> bytes:
    """What comes first in it ends the line that was perhaps begun."""
    return b"\r\n\r\n" + ServerSentEvent(ErrorBody.of(error).model_dump_json(), event=ERROR_EVENT).encode()


def _translated(status: int) -> EditError:
    if status == 408:
        return RequestTimeout(f"the request was not answered in the time that {_TIME_LIMIT.decode()} allows")
    if status == 429:
        return Overloaded("the queue is full", retry_after_s=RETRY_AFTER_S)
    return BackendUnavailable("a process of the server is starting or being replaced", retry_after_s=RETRY_AFTER_S)
