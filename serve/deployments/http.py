"""The edge to HTTP: one table from our errors to responses."""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray.exceptions import RayError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.deployments.envelopes import error_response
from serve.deployments.followed import Followed, followed
from serve.deployments.logs import follow
from serve.errors import (
    EditError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)

logger = logging.getLogger(__name__)


def install_error_handlers(api: FastAPI) -> None:
    """Give our errors, and the framework's own, the contract's envelope."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, EditError)
        followed(request).refused(error)
        return error_response(error)

    async def frameworks(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        translated = _translate(request, error)
        followed(request).refused(translated)
        response = error_response(translated)
        response.headers.update(error.headers or {})
        return response

    api.add_exception_handler(EditError, ours)
    api.add_exception_handler(HTTPException, frameworks)


def _translate(request: Request, error: HTTPException) -> EditError:
    if error.status_code == 404:
        return NotFound(f"there is nothing at {request.url.path}")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed at {request.url.path}")
    return InvalidRequest(str(error.detail))


class Edge:
    """The outermost ASGI layer: the request's id for the handlers, its end for whoever follows it, and an envelope
    even for our own bugs.

    Ray Serve puts the caller's `x-request-id`, or one that it draws, into the request and into the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = Headers(scope=scope).get("x-request-id", "")
        one = scope.setdefault("state", {})["followed"] = Followed(request_id, scope["path"])
        follow(request_id)
        received, sent = _Received(receive), _Sent(send)
        try:
            await self._app(scope, received, sent)
        except ClientDisconnect:
            pass
        except Exception:
            logger.exception("request %s failed", request_id)
            error = InternalError("the server failed to answer")
            one.refused(error)
            if sent.status is not None:
                raise
            await error_response(error)(scope, received, sent)
        finally:
            one.end(sent.status, whole=sent.whole, received_bytes=received.bytes, sent_bytes=sent.bytes)
        return None


class _Received:
    """A `Receive` that counts the bytes of the body.

    Ray Serve's raises, once, where the call with which it asks the proxy is cancelled before this request is, or the
    proxy has died: either way nobody is there any more.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False
        self.bytes = 0

    async def __call__(self) -> Message:
        if self._left:
            return {"type": "http.disconnect"}
        try:
            message = await self._receive()
        except RayError:
            self._left = True
            return {"type": "http.disconnect"}
        self.bytes += len(message.get("body", b""))
        return message


class _Sent:
    """A `Send` that notes what has passed. status: None before that. whole: whether the answer has ended. bytes: of its
    body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.whole = False
        self.bytes = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
        self.bytes += len(message.get("body", b""))
        self.whole = self.whole or (message["type"] == "http.response.body" and not message.get("more_body", False))
