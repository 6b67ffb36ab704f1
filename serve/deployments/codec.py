"""The deployment that turns bytes into pictures and back, on CPU replicas scaled on their own."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pybase64
import ray

from serve.deployments.calls import refusals_as_results
from serve.deployments.logs import adopt_serve_logging
from serve.errors import EditError
from serve.prepare import Frame, finish, prepare
from serve.schema import EditResponse, ImageItem, TokenUsage
from serve.settings import Settings
from serve.storage import LocalStore
from serve.types import EditJob, ModelFacts, Pixels, Usage

logger = logging.getLogger(__name__)
SWEEP_INTERVAL_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request past validation, small enough to pass through the ingress: its pixels stay in the object store.

    job: reference to the `EditJob`, or None where nothing is left to draw. frame: reference to the `Frame`.
    """

    model: str
    job: ray.ObjectRef[EditJob] | None
    frame: ray.ObjectRef[Frame]
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """body: the JSON of an `EditResponse`, ready to send."""

    body: bytes
    png_ms: float


class Codec:
    """Two CPU stages of a request. Threads do the work: zlib and numpy let go of the interpreter's lock."""

    def __init__(self, settings: Settings, facts: Mapping[str, ModelFacts]) -> None:
        adopt_serve_logging(settings.server.log_level)
        self._settings = settings
        self._facts = facts
        self._store = LocalStore(settings.storage)
        self._threads = ThreadPoolExecutor(settings.server.codec_threads, thread_name_prefix="codec")
        threading.Thread(target=self._sweep_for_ever, name="sweep", daemon=True).start()

    @refusals_as_results
    async def prepare(self, body: bytes, request_id: str) -> Ticket:
        """Validate and decode a JSON body. Raises an EditError that names the parameter at fault."""
        return await self._in_thread(lambda: self._prepare(body, request_id))

    @refusals_as_results
    async def finish(
        self, frame: Frame, pictures: tuple[Pixels, ...] | None, model: str, usage: Usage, base_url: str
    ) -> Answer:
        """Compose, encode and store. frame and pictures come by reference."""
        return await self._in_thread(lambda: self._finish(frame, pictures, model, usage, base_url))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _prepare(self, body: bytes, request_id: str) -> Ticket:
        started = time.monotonic()
        edit = prepare(body, request_id, self._settings, self._facts)
        return Ticket(
            model=edit.model,
            job=None if edit.job is None else ray.put(edit.job),
            frame=ray.put(edit.frame),
            decode_ms=(time.monotonic() - started) * 1e3,
        )

    def _finish(
        self, frame: Frame, pictures: tuple[Pixels, ...] | None, model: str, usage: Usage, base_url: str
    ) -> Answer:
        started = time.monotonic()
        files = finish(frame, pictures)
        items = [self._item(data, frame, i, base_url) for i, data in enumerate(files)]
        width, height = frame.size
        answer = EditResponse(
            created=int(time.time()),
            model=model,
            size=f"{width}x{height}",
            output_format=frame.output_format,
            data=items,
            usage=TokenUsage.of(usage),
        )
        body = answer.model_dump_json().encode()
        return Answer(body, (time.monotonic() - started) * 1e3)

    def _item(self, data: bytes, frame: Frame, i: int, base_url: str) -> ImageItem:
        if frame.by_url:
            return ImageItem(url=self._store.put(data, frame.output_format, base_url), seed=frame.seeds[i])
        return ImageItem(b64_json=pybase64.b64encode_as_string(data), seed=frame.seeds[i])

    def _sweep_for_ever(self) -> None:
        never = threading.Event()
        while not never.wait(SWEEP_INTERVAL_S):
            try:
                self._store.sweep()
            except EditError as error:
                logger.warning("the store was not swept: %s", error)
