"""The server under measurement: one HTTP session that sends edits and asks for facts and metrics."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from pydantic_core import from_json

from benchmarks.bodies import Body, Shape
from benchmarks.errors import BenchError, NoServer
from benchmarks.run import Outcome
from benchmarks.scrape import Scrape

CONNECT_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 30.0
KEEPALIVE_S = 2.0
"""Idle connections are closed before the server does so (uvicorn: after 5 s) while a request is on its way."""


@dataclass(frozen=True, slots=True)
class Server:
    """url: with or without `/v1`. api_key: sent as a bearer token, and never recorded."""

    url: str
    shape: Shape = field(default_factory=Shape)
    api_key: str = field(default="", repr=False)

    @property
    def root(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ended; the fields are those of `Record`. message: an error's, for people."""

    outcome: Outcome
    status: int | None = None
    code: str = ""
    message: str = ""
    images: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict[str, float])
    received_bytes: int = 0


class Wire:
    """Connections are kept and as many as there are requests: nothing waits in the client."""

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        self._session = session
        self._server = server

    async def edit(self, body: Body) -> tuple[int | None, Mapping[str, str], bytes] | aiohttp.ClientError | OSError:
        """Status, headers and content of the answer once its last byte has come, or why none came."""
        headers = {"content-type": body.content_type, "content-length": str(body.bytes)}
        url = f"{self._server.root}/v1/images/edits"
        try:
            async with self._session.post(url, data=_streamed(body), headers=headers) as response:
                return response.status, response.headers, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            return error

    async def facts(self) -> dict[str, Any]:
        """What the server says of the model in its list; of its only one where none was named. Empty: not told.

        Raises NoServer, and BenchError where it has several models and none was named.
        """
        listed = _models(await self._get("/v1/models", must_answer=True))
        wanted = self._server.shape.model
        if not wanted and len(listed) > 1:
            names = ", ".join(str(model.get("id")) for model in listed)
            raise BenchError(f"the server at {self._server.root} has several models; name one of {names}")
        return next((model for model in listed if not wanted or wanted in _names(model)), {})

    async def scrape(self, model: str) -> Scrape:
        """The engine's metrics of a model; empty where the server has none."""
        content = await self._get("/metrics")
        try:
            return Scrape.of(content.decode(), model)
        except ValueError:
            return Scrape()

    async def _get(self, path: str, must_answer: bool = False) -> bytes:
        timeout = aiohttp.ClientTimeout(ASK_TIMEOUT_S)
        try:
            async with self._session.get(f"{self._server.root}{path}", timeout=timeout) as response:
                return await response.read() if response.status == 200 else b""
        except aiohttp.InvalidURL:
            raise BenchError(f"{self._server.url!r} is no URL; it reads like http://127.0.0.1:8000") from None
        except (aiohttp.ClientError, OSError):
            if must_answer:
                raise NoServer(f"no server answers at {self._server.root}") from None
            return b""


@asynccontextmanager
async def connected(server: Server) -> AsyncGenerator[Wire]:
    """A session for the time of the body."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    headers = {"authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        yield Wire(session, server)


def reply(answer: tuple[int | None, Mapping[str, str], bytes] | aiohttp.ClientError | OSError, rows: int) -> Reply:
    """What an answer of `Wire.edit` amounts to. rows: results that were asked for."""
    if isinstance(answer, Exception):
        return Reply("failed", code=type(answer).__name__, message=str(answer))
    status, headers, content = answer
    stages = stages_ms(headers.get("server-timing", ""))
    parsed = _parsed(content)
    if status == 200:
        images = _images(parsed)
        complete = images == rows
        code = "" if complete else "malformed_answer"
        message = "" if complete else f"the answer holds {images} pictures, not {rows}"
        return Reply("answered" if complete else "failed", status, code, message, images, stages, len(content))
    outcome: Outcome = "refused" if status is not None and 400 <= status < 500 else "failed"
    code = _error(parsed, "code") or f"http_{status}"
    return Reply(outcome, status, code, _error(parsed, "message"), 0, stages, len(content))


def stages_ms(header: str) -> dict[str, float]:
    """`server-timing` (W3C): the duration of each metric that has one, in ms; what is no number is left out."""
    stages: dict[str, float] = {}
    for metric in header.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        durations = [part.partition("=")[2].strip('" ') for part in parameters if part.lower().startswith("dur=")]
        if name and durations and _is_number(durations[0]):
            stages[name] = float(durations[0])
    return stages


async def _streamed(body: Body) -> AsyncIterator[bytes]:
    for chunk in body.chunks:
        yield chunk


def _parsed(content: bytes) -> object:
    try:
        return from_json(content)
    except ValueError:
        return None


def _images(answer: object) -> int:
    """Pictures in an answer, by link or in base64."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        return 0
    return sum(isinstance(item, dict) and bool(item.get("b64_json") or item.get("url")) for item in data)


def _error(answer: object, part: str) -> str:
    """A part of the error in an answer of OpenAI's shape; empty where there is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get(part) if isinstance(error, dict) else None
    return str(said) if said else ""


def _models(content: bytes) -> Sequence[dict[str, Any]]:
    answer = _parsed(content)
    data = answer.get("data") if isinstance(answer, dict) else None
    return [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []


def _names(model: Mapping[str, Any]) -> list[Any]:
    aliases = model.get("aliases")
    return [model.get("id"), *(aliases if isinstance(aliases, list) else [])]


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
