"""The edge to HTTP: one table from our errors to responses, and bodies read under a cap."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.message import Message as EmailMessage

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import (
    EditError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from serve.schema import ErrorBody
from serve.settings import MIB, LimitSettings

logger = logging.getLogger(__name__)


def error_response(error: EditError) -> JSONResponse:
    """The contract's envelope, with `retry-after` in whole seconds and `x-should-retry` where a retry can help."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status >= 500 or isinstance(error, RequestTimeout):
        headers["x-should-retry"] = "true" if error.retryable else "false"
    return JSONResponse(ErrorBody.of(error).model_dump(), error.status, headers)


def install_error_handlers(api: FastAPI) -> None:
    """Give our errors, and the framework's own, the contract's envelope."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, EditError)
        # Both quote what the caller sent: as JSON they stay on their line.
        told = json.dumps([request.url.path, error.message])
        logger.info("%d %s %s", error.status, error.code, told)
        return error_response(error)

    async def frameworks(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = error_response(_translate(request, error))
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
    """The outermost ASGI layer: the request's id for the handlers, and an envelope even for our own bugs.

    Ray Serve puts the caller's `x-request-id`, or one that it draws, into the request and into the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = Headers(scope=scope).get("x-request-id", "")
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except ClientDisconnect:
            return None
        except Exception:
            logger.exception("request %s failed", request_id)
            if started:
                raise
            await error_response(InternalError("the server failed to answer"))(scope, receive, send)
        return None


class BodyBudget:
    """Holds the bytes of all bodies in memory under a bound, and the number of requests in flight."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._bytes = 0
        self._requests = 0

    @asynccontextmanager
    async def admit(self, queued_s: Callable[[], Awaitable[float]]) -> AsyncGenerator[None]:
        """Count one request while the context is open. Raises Overloaded before a byte of the body is read.

        queued_s: asked, only then, for the seconds of work after which a retry has a chance.
        """
        if self._requests >= self._limits.requests_in_flight:
            message = f"{self._requests} requests are in flight, the most this server takes"
            raise Overloaded(message, retry_after_s=await queued_s())
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncGenerator[bytes]:
        """The request's body, counted as long as the context is open.

        Raises RequestTooLarge as soon as it is sure, RequestTimeout when the client is too slow, Overloaded when the
        bodies of all requests together would not fit.
        """
        chunks: list[bytes] = []
        try:
            await self._receive(request, chunks)
            chunks[:] = [b"".join(chunks)]
            yield chunks[0]
        finally:
            self._bytes -= sum(map(len, chunks))

    async def _receive(self, request: Request, chunks: list[bytes]) -> None:
        """Fill `chunks`, counting each of them."""
        self._refuse_by_header(request)
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    chunks.append(chunk)
                    self._bytes += len(chunk)
                    self._refuse_by_size(size)
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.body_timeout_s:g} s; {size} bytes came"
            raise RequestTimeout(message) from None

    def _refuse_by_header(self, request: Request) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isdecimal():
            self._refuse_by_size(int(declared))

    def _refuse_by_size(self, size: int) -> None:
        limit = self._limits.body_bytes
        if size > limit:
            raise RequestTooLarge(f"the body is larger than {limit / MIB:g} MiB, the most this server takes")
        if self._bytes > self._limits.bodies_bytes:
            raise Overloaded("the bodies of the requests in flight fill this server's memory", retry_after_s=1)


def require_json(request: Request) -> None:
    """Raises UnsupportedMediaType unless the body is declared as JSON, in UTF-8 and not compressed."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise UnsupportedMediaType(f"the body's content-encoding is {coding[:80]}; this server takes none")
    found = request.headers.get("content-type", "")
    declared = EmailMessage()
    declared["content-type"] = found or "none"
    is_json = declared.get_content_type() == "application/json"
    if not is_json or declared.get_content_charset("utf-8") not in ("utf-8", "utf8"):
        shown = found[:80] or "no content-type"
        raise UnsupportedMediaType(f"the body is {shown}; this server takes application/json")
