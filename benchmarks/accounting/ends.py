"""How each request of `benchmarks.accounting` ended: a client that sends, waits or leaves, and a verdict on what came.

Every request has one end:

- `answered`: a 200 of the API's shape with pictures; whether they are the right ones is known later.
- `refused`: a malformed request got the status and the code that it must get.
- `retryable`: a 429 or 503 of the API's shape that says when to try again, and that it makes sense.
- `left`: the client closed the connection before anything came.
- `unclean`: any other answer. `lost`: the connection ended without one. `hung`: neither within HUNG_AFTER_S.
"""

import asyncio
import hashlib
import statistics
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import aiohttp
from pydantic_core import from_json

from benchmarks.accounting.requests import Ask
from benchmarks.wire import KEEPALIVE_S

HUNG_AFTER_S = 90.0
MOST_PAUSE_S = 1.0
"""That a client waits after an answer that asks it to try again later; a real one would wait as long as it says."""
REMEMBERED = 50
EDITS = "/v1/images/edits"

Kind = Literal["answered", "refused", "retryable", "left", "unclean", "lost", "hung"]
KINDS: tuple[Kind, ...] = ("answered", "refused", "retryable", "left", "unclean", "lost", "hung")


@dataclass(frozen=True, slots=True)
class End:
    """began_s, ended_s: from the client's start. detail: an error's code, or what was wrong. pictures: their digest."""

    ask: Ask
    request_id: str
    kind: Kind
    began_s: float
    ended_s: float
    status: int | None = None
    detail: str = ""
    pictures: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fields are those of `End`."""

    kind: Kind
    detail: str = ""
    pictures: str = ""


class Client:
    """prefix: of the requests' ids. Its clock starts when it is made."""

    def __init__(self, session: aiohttp.ClientSession, url: str, prefix: str) -> None:
        self._session = session
        self._url = url
        self._prefix = prefix
        self._zero = time.perf_counter()
        self._took_s: deque[float] = deque([1.0], maxlen=REMEMBERED)
        self._one_more = asyncio.Condition()
        self.ends: list[End] = []

    def now_s(self) -> float:
        return time.perf_counter() - self._zero

    async def run(self, asks: Iterable[Ask], concurrency: int) -> None:
        """Send them, so many at a time. Raises what a worker raised."""
        waiting = iter(asks)
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._work(waiting))

    async def send(self, ask: Ask) -> End:
        """One request to its end, which is kept in `ends`."""
        sent = End(ask, f"{self._prefix}-{ask.index}", "lost", self.now_s(), 0.0)
        end = replace(await self._ended(sent), ended_s=self.now_s())
        self.ends.append(end)
        if end.kind == "answered":
            self._took_s.append(end.ended_s - end.began_s)
        async with self._one_more:
            self._one_more.notify_all()
        return end

    async def until_ended(self, count: float) -> None:
        """Until so many requests have ended."""
        async with self._one_more:
            await self._one_more.wait_for(lambda: len(self.ends) >= count)

    async def _work(self, waiting: Iterable[Ask]) -> None:
        for ask in waiting:
            if (await self.send(ask)).kind in ("retryable", "lost"):
                await asyncio.sleep(MOST_PAUSE_S)

    async def _ended(self, sent: End) -> End:
        leaves_s = HUNG_AFTER_S
        if sent.ask.way == "leave":
            leaves_s = sent.ask.leaves_after * statistics.median(self._took_s)
        try:
            async with asyncio.timeout(leaves_s):
                status, headers, content = await self._post(sent)
        except TimeoutError:
            return replace(sent, kind="left" if sent.ask.way == "leave" else "hung")
        except (aiohttp.ClientError, OSError) as error:
            return replace(sent, kind="lost", detail=repr(error))
        said = verdict(sent.ask, sent.request_id, status, headers, content)
        return replace(sent, kind=said.kind, status=status, detail=said.detail, pictures=said.pictures)

    async def _post(self, sent: End) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"content-type": "application/json", "x-request-id": sent.request_id}
        async with self._session.post(self._url + EDITS, data=sent.ask.body, headers=headers) as response:
            return response.status, response.headers, await response.read()


@asynccontextmanager
async def clients(url: str, prefix: str) -> AsyncGenerator[Client]:
    """A client for the time of the body, with as many connections as it has requests under way."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Client(session, url, prefix)


def verdict(ask: Ask, request_id: str, status: int, headers: Mapping[str, str], content: bytes) -> Verdict:
    """What a complete answer amounts to. headers: of any case."""
    found = headers.get("x-request-id", "")
    if found != request_id:
        return Verdict("unclean", f"{status} with the request id {found!r}")
    said = _parsed(content)
    if status == 200:
        return _answer(ask, said)
    code = _error_code(said)
    if code is None:
        return Verdict("unclean", f"{status} whose body is no error of the API: {content[:80]!r}")
    if ask.refusal == (status, code):
        return Verdict("refused", code)
    if status in (429, 503):
        return Verdict("retryable" if _says_when(status, headers) else "unclean", code)
    return Verdict("unclean", f"{status} {code}")


def _answer(ask: Ask, said: Mapping[str, Any]) -> Verdict:
    if ask.refusal is not None:
        return Verdict("unclean", f"200 where {ask.refusal[1]} is due")
    data = said.get("data")
    items = data if isinstance(data, list) else []
    pictures = [str(item["b64_json"]) for item in items if isinstance(item, dict) and item.get("b64_json")]
    if not pictures or len(pictures) < len(items):
        return Verdict("unclean", "200 without its pictures")
    return Verdict("answered", pictures=hashlib.sha256("\n".join(pictures).encode()).hexdigest())


def _says_when(status: int, headers: Mapping[str, str]) -> bool:
    """`retry-after` in seconds; and where a client would not try again by itself, that it should."""
    asked = headers.get("retry-after", "")
    return asked.isdecimal() and int(asked) >= 1 and (status == 429 or headers.get("x-should-retry") == "true")


def _parsed(content: bytes) -> Mapping[str, Any]:
    try:
        value = from_json(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _error_code(said: Mapping[str, Any]) -> str | None:
    """Of an error in the API's shape, to the letter; None for anything else."""
    error = said.get("error")
    if set(said) != {"error"} or not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        return None
    return error["code"] if isinstance(error["code"], str) else None
