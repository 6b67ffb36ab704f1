"""The deployment that turns bytes into pictures and back, on CPU replicas scaled on their own."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pybase64

from serve.deployments.calls import refusals_as_results, succeeded
from serve.deployments.heap import return_pictures_at_once
from serve.deployments.logs import adopt_serve_logging
from serve.deployments.messages import Answer, Prepared, Ticket
from serve.errors import EditError
from serve.prepare import Frame, finish, prepare
from serve.schema import EditResponse, ImageItem, TokenUsage
from serve.settings import Settings
from serve.storage import LocalStore
from serve.types import EditResult, ModelFacts, Usage

logger = logging.getLogger(__name__)
SWEEP_INTERVAL_S = 60.0
NOTHING_DRAWN = EditResult(images=(), usage=Usage(0, 0, 0), timings_ms={}, revised_prompt=None)
T = TypeVar("T")


class Codec:
    """Two CPU stages of a request. Threads do the work: zlib and numpy let go of the interpreter's lock."""

    def __init__(self, settings: Settings, facts: Mapping[str, ModelFacts]) -> None:
        adopt_serve_logging(settings.server.log_level)
        return_pictures_at_once()
        self._settings = settings
        self._facts = facts
        self._store = LocalStore(settings.storage)
        self._threads = ThreadPoolExecutor(settings.server.codec_threads, thread_name_prefix="codec")
        threading.Thread(target=self._sweep_for_ever, name="sweep", daemon=True).start()

    @refusals_as_results
    async def prepare(self, body: bytes, request_id: str) -> Prepared:
        """Validate and decode a JSON body. Raises an EditError that names the parameter at fault."""
        return await self._in_thread(lambda: self._prepare(body, request_id))

    @refusals_as_results
    async def ticket(self, prepared: Prepared | EditError) -> Ticket:
        """The little that the ingress reads of what `prepare` has answered; raises what that was refused with."""
        edit = succeeded(prepared).edit
        return Ticket(edit.model, draws=edit.job is not None, caller=edit.caller)

    @refusals_as_results
    async def finish(self, prepared: Prepared, edited: EditResult | EditError | None, base_url: str) -> Answer:
        """Compose, encode and store. edited: None where nothing was drawn. Raises what the edit failed with."""
        drawn = succeeded(edited)
        return await self._in_thread(lambda: self._finish(prepared, drawn, base_url))

    async def ping(self) -> None:
        """Whether this process answers. It does so at once: full threads are load, not a fault."""

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _prepare(self, body: bytes, request_id: str) -> Prepared:
        started = time.monotonic()
        edit = prepare(body, request_id, self._settings, self._facts)
        return Prepared(edit, decode_ms=(time.monotonic() - started) * 1e3)

    def _finish(self, prepared: Prepared, edited: EditResult | None, base_url: str) -> Answer:
        started = time.monotonic()
        frame = prepared.edit.frame
        drawn = edited or NOTHING_DRAWN
        files = finish(frame, edited and edited.images)
        width, height = frame.size
        answer = EditResponse(
            created=int(time.time()),
            model=prepared.edit.model,
            size=f"{width}x{height}",
            output_format=frame.output_format,
            data=[
                self._item(data, frame, seed, drawn, base_url) for data, seed in zip(files, frame.seeds, strict=True)
            ],
            usage=TokenUsage.of(drawn.usage),
        )
        body = answer.model_dump_json().encode()
        png_ms = (time.monotonic() - started) * 1e3
        return Answer(body, {**drawn.timings_ms, "decode": prepared.decode_ms, "png": png_ms}, place=drawn.place)

    def _item(self, data: bytes, frame: Frame, seed: int, drawn: EditResult, base_url: str) -> ImageItem:
        if frame.by_url:
            url = self._store.put(data, frame.output_format, base_url)
            return ImageItem(url=url, seed=seed, revised_prompt=drawn.revised_prompt)
        text = pybase64.b64encode_as_string(data)
        return ImageItem(b64_json=text, seed=seed, revised_prompt=drawn.revised_prompt)

    def _sweep_for_ever(self) -> None:
        never = threading.Event()
        while not never.wait(SWEEP_INTERVAL_S):
            try:
                self._store.sweep()
            except EditError as error:
                logger.warning("the store was not swept: %s", error)
