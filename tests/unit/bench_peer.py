"""A small server that speaks the shape of the API and behaves as a test says, in a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

MIB = 2**20
TIMING = "queue;dur=12.5, denoise;dur=80"


@dataclass(frozen=True)
class Way:
    """How one request ends. code: an error's. pictures: how many come; by default as many as were asked for.

    wait_for: the number of requests that must have come before this one is answered.
    """

    status: int = 200
    code: str = ""
    pictures: int | None = None
    hangs: bool = False
    drops: bool = False
    raw: bytes | None = None
    wait_for: int = 0
    delay_s: float = 0.0


@dataclass(frozen=True)
class Asked:
    content_type: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """behave: the way of the request of that number, from 0. metrics: texts of `GET /metrics`, in turn; none is 404."""

    behave: Callable[[int], Way] = lambda _: Way()
    models: Sequence[dict[str, object]] = ({"id": "tiny", "aliases": ["small"], "backend": "torch"},)
    metrics: list[str] = field(default_factory=list[str])
    asked: list[Asked] = field(default_factory=list[Asked])
    url: str = ""
    most_at_once: int = 0
    _at_once: int = 0
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def edit(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        number = len(self.asked)
        self.asked.append(Asked(request.content_type, dict(request.headers), body))
        async with self._came:
            self._came.notify_all()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request, self.behave(number), body)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request, way: Way, body: bytes) -> web.StreamResponse:
        await asyncio.sleep(way.delay_s)
        async with self._came:
            await self._came.wait_for(lambda: not way.hangs and len(self.asked) >= way.wait_for)
        if way.drops:
            assert request.transport
            request.transport.close()
        if way.raw is not None:
            return web.Response(status=way.status, body=way.raw)
        if way.status != 200:
            error = {"message": "no", "type": "t", "param": None, "code": way.code}
            return web.json_response({"error": error}, status=way.status)
        asked = json.loads(body).get("n", 1) if request.content_type == "application/json" else 1
        items = [{"b64_json": "AAAA"}] * (asked if way.pictures is None else way.pictures)
        return web.json_response({"created": 1, "data": items}, headers={"server-timing": TIMING})

    async def listed(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.models)})

    async def measured(self, _: web.Request) -> web.Response:
        if not self.metrics:
            return web.Response(status=404)
        return web.Response(text=self.metrics.pop(0) if len(self.metrics) > 1 else self.metrics[0])


@contextmanager
def serving(peer: Peer) -> Generator[Peer]:
    """The peer at an address of its own while the body runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(_started(peer), loop).result(10)
    try:
        yield peer
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _started(peer: Peer) -> web.AppRunner:
    app = web.Application(client_max_size=64 * MIB)
    app.router.add_post("/v1/images/edits", peer.edit)
    app.router.add_get("/v1/models", peer.listed)
    app.router.add_get("/metrics", peer.measured)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    return runner
