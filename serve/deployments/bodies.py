"""Bodies read under a cap while they come in: JSON as it stands, forms taken apart on the way."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Protocol

from fastapi import Request

from serve.codec import FormReader
from serve.deployments.calls import RESTART_S
from serve.errors import (
    BackendUnavailable,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
)
from serve.schema import EditRequest
from serve.settings import MIB, LimitSettings
from serve.types import Form

JSON = "application/json"
FORM = "multipart/form-data"
MOST_BOUNDARY = 70
"""Characters (RFC 2046, section 5.1.1)."""


class _Reader(Protocol):
    """Takes a body in pieces."""

    def feed(self, chunk: bytes) -> None: ...

    def close(self) -> bytes | Form: ...


@dataclass(slots=True)
class _Received:
    """Of one body, so far."""

    bytes: int = 0


class BodyBudget:
    """Holds the bytes of all bodies in memory under a bound, and the number of requests in flight."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._bytes = 0
        self._requests = 0
        self._closed = False

    @property
    def requests(self) -> int:
        """In flight."""
        return self._requests

    def close(self) -> None:
        """Admit nobody from now on."""
        self._closed = True

    def refuse_if_closed(self) -> None:
        if self._closed:
            raise BackendUnavailable("the server is shutting down; try again", retry_after_s=RESTART_S)

    @asynccontextmanager
    async def admit(self, queued_s: Callable[[], Awaitable[float]]) -> AsyncGenerator[None]:
        """Count one request while the context is open. Raises Overloaded before a byte of the body is read, and
        BackendUnavailable after `close`.

        queued_s: asked, only then, for the seconds of work after which a retry has a chance.
        """
        self.refuse_if_closed()
        if self._requests >= self._limits.requests_in_flight:
            message = f"{self._requests} requests are in flight, the most this server takes"
            raise Overloaded(message, retry_after_s=await queued_s())
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncGenerator[bytes | Form]:
        """The request's body, JSON as it stands or a form, counted as long as the context is open.

        Raises UnsupportedMediaType, InvalidRequest for a form that is none, RequestTooLarge as soon as it is sure,
        RequestTimeout when the client is too slow, Overloaded when the bodies of all requests together would not fit.
        """
        reader, received = _reader(request, self._limits), _Received()
        try:
            await self._receive(request, reader, received)
            yield reader.close()
        finally:
            self._bytes -= received.bytes

    async def _receive(self, request: Request, reader: _Reader, received: _Received) -> None:
        """Feed the reader. received: grows with each piece, which is counted."""
        self._refuse_by_header(request)
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                async for chunk in request.stream():
                    received.bytes += len(chunk)
                    self._bytes += len(chunk)
                    self._refuse_by_size(received.bytes)
                    reader.feed(chunk)
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.body_timeout_s:g} s; {received.bytes} bytes came"
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


class _Whole:
    """A body that is parsed as a whole."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def close(self) -> bytes:
        self._chunks = [b"".join(self._chunks)]
        return self._chunks[0]


def _reader(request: Request, limits: LimitSettings) -> _Reader:
    """Raises UnsupportedMediaType unless the body is declared as JSON in UTF-8 or as a form, and not compressed."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise UnsupportedMediaType(f"the body's content-encoding is {coding[:80]}; this server takes none")
    found = request.headers.get("content-type", "")
    declared = Message()
    declared["content-type"] = found or "none"
    if declared.get_content_type() == JSON and declared.get_content_charset("utf-8") in ("utf-8", "utf8"):
        return _Whole()
    if declared.get_content_type() == FORM:
        return FormReader(_boundary(declared), limits.image_bytes, EditRequest.model_fields)
    shown = found[:80] or "no content-type"
    raise UnsupportedMediaType(f"the body is {shown}; this server takes {JSON} and {FORM}")


def _boundary(declared: Message) -> str:
    boundary = declared.get_boundary() or ""
    if not 0 < len(boundary) <= MOST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise InvalidRequest(f"the content-type is {FORM} without a good boundary")
    return boundary
