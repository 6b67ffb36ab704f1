"""The edge to HTTP: one table from our errors to responses."""

import json
import logging
import math

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.deployments.counted import note_error
from serve.errors import (
    EditError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
)
from serve.schema import ErrorBody

logger = logging.getLogger(__name__)


def error_response(error: EditError) -> JSONResponse:
    """The contract's envelope, with `retry-after` in whole seconds and `x-should-retry` where a retry can help."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status >= 500 or isinstance(error, RequestTimeout):
        headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(ErrorBody.of(error).model_dump(), error.status, headers)


def install_error_handlers(api: FastAPI) -> None:
    """Give our errors, and the framework's own, the contract's envelope."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, EditError)
        # Both quote what the caller sent: as JSON they stay on their line. No prompt comes into a log.
        told = json.dumps([request.url.path, "prompt" if error.param == "prompt" else error.message])
        logger.info("%d %s %s", error.status, error.code, told)
        note_error(request.scope, error)
        return error_response(error)

    async def frameworks(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        translated = _translate(request, error)
        note_error(request.scope, translated)
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
