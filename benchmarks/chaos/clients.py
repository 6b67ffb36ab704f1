"""Clients that send edits without end and try again as OpenAI's do, and what became of each try.

A try is `right`, when its pictures are those that the same request got when all was quiet; `retryable`, an error of the
API's shape that asks for another try; `wrong` for other pictures; `unclean` for any other answer; `cut` where the
connection ended before the answer did, and `hung` where neither happened in HUNG_AFTER_S. A request is sent again by
the rule of OpenAI's clients, but more often.
"""

import asyncio
import base64
import hashlib
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import aiohttp
from pydantic_core import from_json

from benchmarks.accounting.ends import EDITS, verdict
from benchmarks.accounting.requests import Ask, Sound
from benchmarks.wire import KEEPALIVE_S

HUNG_AFTER_S = 90.0
TRIES = 8
OFFICIAL_TRIES = 3
RETRIED = frozenset({408, 409, 429})
"""And 5xx, where no header says otherwise (openai-python, `_should_retry`)."""

MOST_RETRY_AFTER_S = 60.0
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 8.0

Kind = Literal["right", "wrong", "retryable", "unclean", "cut", "hung"]
Way = Literal["plain", "retried", "keyed", "streamed", "linked"]
WAYS: tuple[Way, ...] = ("plain", "retried", "keyed", "streamed", "linked")
"""`retried` counts its tries in OpenAI's header, `keyed` has an idempotency key, `linked` fetches pictures by URL."""


@dataclass(frozen=True, slots=True)
class Try:
    """began_s, ended_s: from the client's start. code: an error's, or what was wrong."""

    kind: Kind
    way: Way
    began_s: float
    ended_s: float
    request_id: str
    status: int | None = None
    code: str = ""
    again_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """tries: in their order; the request ended as the last of them did."""

    number: int
    way: Way
    tries: tuple[Try, ...]

    @property
    def last(self) -> Try:
        return self.tries[-1]


class Clients:
    """pictures: the digest of each request's, by its number; filled by `learn`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, sound: Sequence[Sound], think_s: float) -> None:
        self._session = session
        self._url = url + EDITS
        self._sound = sound
        self._think_s = think_s
        self._zero_s = time.perf_counter()
        self._ends = asyncio.Event()
        self.pictures: dict[int, str] = {}
        self.requests: list[Request] = []

    def now_s(self) -> float:
        return time.perf_counter() - self._zero_s

    async def learn(self) -> None:
        """Send every request once, some at a time, and take what is answered for right."""
        gate = asyncio.Semaphore(4)

        async def one(number: int) -> None:
            async with gate:
                said = await self._answer(number, "plain", {}, uuid4().hex)
            assert said.digest, f"request {number} was not answered when all was quiet: {said}"
            self.pictures[number] = said.digest

        await asyncio.gather(*map(one, range(len(self._sound))))

    @asynccontextmanager
    async def running(self, count: int) -> AsyncGenerator[None]:
        """So many clients send all the while. At the end each finishes the request that it has begun."""
        numbers = itertools.count()
        self._ends.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._work(numbers))
            try:
                yield
            finally:
                self._ends.set()

    async def _work(self, numbers: "itertools.count[int]") -> None:
        for number in numbers:
            if self._ends.is_set():
                return
            self.requests.append(await self._request(number))
            await asyncio.sleep(self._think_s)

    async def _request(self, count: int) -> Request:
        number, way = count % len(self._sound), WAYS[count % len(WAYS)]
        key = {"idempotency-key": uuid4().hex} if way == "keyed" else {}
        tries: list[Try] = []
        for past in range(TRIES):
            retried = {"x-stainless-retry-count": str(past)} if way == "retried" else {}
            tries.append(await self._try(number, way, {**key, **retried}))
            if tries[-1].kind not in ("retryable", "cut"):
                break
            pause_s = min(FIRST_PAUSE_S * 2**past, MOST_PAUSE_S)
            await asyncio.sleep(tries[-1].again_after_s or pause_s)
        return Request(number, way, tuple(tries))

    async def _try(self, number: int, way: Way, headers: Mapping[str, str]) -> Try:
        began_s, request_id = self.now_s(), uuid4().hex
        try:
            async with asyncio.timeout(HUNG_AFTER_S):
                said = await self._answer(number, way, headers, request_id)
        except TimeoutError:
            said = _Said("hung")
        except (aiohttp.ClientError, OSError) as error:
            said = _Said("cut", code=type(error).__name__)
        kind = said.kind
        if said.digest:
            kind = "right" if said.digest == self.pictures[number] else "wrong"
        return Try(kind, way, began_s, self.now_s(), request_id, said.status, said.code, said.again_after_s)

    async def _answer(self, number: int, way: Way, headers: Mapping[str, str], request_id: str) -> "_Said":
        body = self._sound[number].body
        if way == "streamed":
            body = body.removesuffix(b"}") + b', "stream": true}'
        elif way == "linked":
            body = body.replace(b'"b64_json"', b'"url"')
        sent = {"content-type": "application/json", "x-request-id": request_id, **headers}
        async with self._session.post(self._url, data=body, headers=sent) as response:
            content = await response.read()
            if way == "linked" and response.status == 200:
                return await self._fetched([item["url"] for item in from_json(content)["data"]])
            return _said(number, request_id, response.status, response.headers, content)

    async def _fetched(self, urls: Sequence[str]) -> "_Said":
        pictures: list[str] = []
        for url in urls:
            request_id = uuid4().hex
            async with self._session.get(url, headers={"x-request-id": request_id}) as response:
                content = await response.read()
            if response.status != 200:
                return _said(0, request_id, response.status, response.headers, content)
            pictures.append(base64.b64encode(content).decode())
        return _Said("right", 200, digest=_digest(pictures))


@asynccontextmanager
async def clients(url: str, sound: Sequence[Sound], think_s: float) -> AsyncGenerator[Clients]:
    """For the time of the body. think_s: of a client, after each request."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Clients(session, url, sound, think_s)


@dataclass(frozen=True, slots=True)
class _Said:
    """digest: of the pictures of an answer."""

    kind: Kind
    status: int | None = None
    code: str = ""
    again_after_s: float | None = None
    digest: str = ""


def _said(number: int, request_id: str, status: int, headers: Mapping[str, str], content: bytes) -> _Said:
    if headers.get("content-type", "").startswith("text/event-stream"):
        return _streamed(content)
    found = verdict(Ask(number, "stay", number, b""), request_id, status, headers, content)
    if found.kind == "answered":
        return _Said("right", status, digest=found.pictures)
    if found.kind == "unclean" or not _is_retried(status, headers):
        return _Said("unclean", status, found.detail)
    asked_s = float(headers["retry-after"])
    return _Said("retryable", status, found.detail, asked_s if asked_s <= MOST_RETRY_AFTER_S else None)


def _streamed(content: bytes) -> _Said:
    """A stream ends with its pictures, or with an error that says what went wrong."""
    pictures: list[str] = []
    for event in _events(content):
        if error := event.get("error"):
            retryable = error.get("type") in ("server_error", "rate_limit_error")
            return _Said("retryable" if retryable else "unclean", 200, f"{error.get('code')} in a stream")
        if event.get("type") == "image_edit.completed":
            pictures.append(event["b64_json"])
    if not pictures:
        return _Said("unclean", 200, "a stream without an end")
    return _Said("right", 200, digest=_digest(pictures))


def _digest(pictures: Sequence[str]) -> str:
    """As that of a verdict."""
    return hashlib.sha256("\n".join(pictures).encode()).hexdigest()


def _events(content: bytes) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for line in content.splitlines():
        if line.startswith(b"data:"):
            with suppress(ValueError):
                events.append(from_json(line.removeprefix(b"data:")))
    return events


def _is_retried(status: int, headers: Mapping[str, str]) -> bool:
    said = headers.get("x-should-retry")
    return said == "true" if said in ("true", "false") else status in RETRIED or status >= 500
