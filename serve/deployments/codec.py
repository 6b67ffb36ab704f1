"""The deployment that turns bytes into pictures and back, on CPU replicas scaled on their own."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pybase64

from serve.deployments.calls import refusals_as_results, succeeded
from serve.deployments.heap import return_pictures_at_once
from serve.deployments.logs import adopt_serve_logging
from serve.deployments.messages import Answer, Prepared, Ticket
from serve.errors import EditError
from serve.prepare import Frame, Origin, PreparedEdit, finish, prepare
from serve.schema import CompletedEvent, EditResponse, ImageItem, PartialImageEvent, TokenUsage
from serve.settings import Settings
from serve.storage import LocalStore
from serve.types import EditResult, Form, ModelFacts, Preview, Usage

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
    async def prepare(self, body: bytes | Form, origin: Origin) -> Prepared:
        """Validate and decode a body. Raises an EditError that names the parameter at fault."""
        return await self._in_thread(lambda: self._prepare(body, origin))

    @refusals_as_results
    async def ticket(self, prepared: Prepared | EditError) -> Ticket:
        """The little that the ingress reads of what `prepare` has answered; raises what that was refused with."""
        edit = succeeded(prepared).edit
        images, draws = len(edit.frame.seeds), edit.job is not None
        return Ticket(edit.model, images, edit.fingerprint, draws, edit.stream, edit.caller)

    @refusals_as_results
    async def finish(self, prepared: Prepared, edited: EditResult | EditError | None, base_url: str) -> Answer:
        """Compose, encode and store. edited: None where nothing was drawn. Raises what the edit failed with."""
        drawn = succeeded(edited)
        return await self._in_thread(lambda: self._finish(prepared, drawn, base_url))

    @refusals_as_results
    async def preview(self, prepared: Prepared, preview: Preview) -> str:
        """The JSON of a `PartialImageEvent`."""
        return await self._in_thread(lambda: self._preview(prepared.edit.frame, preview))

    @refusals_as_results
    async def completed(self, prepared: Prepared, edited: EditResult | None) -> list[str]:
        """As `finish`, for a stream: the JSON of a `CompletedEvent` for each image."""
        return await self._in_thread(lambda: self._completed(prepared.edit, edited))

    async def ping(self) -> None:
        """Whether this process answers. It does so at once: full threads are load, not a fault."""

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _prepare(self, body: bytes | Form, origin: Origin) -> Prepared:
        started = time.monotonic()
        edit = prepare(body, origin, self._settings, self._facts)
        return Prepared(edit, decode_ms=(time.monotonic() - started) * 1e3)

    def _finish(self, prepared: Prepared, edited: EditResult | None, base_url: str) -> Answer:
        started = time.monotonic()
        frame = prepared.edit.frame
        drawn = edited or NOTHING_DRAWN
        files = finish(frame, edited and edited.images)
        answer = EditResponse(
            created=int(time.time()),
            model=prepared.edit.model,
            size=_size_of(frame),
            output_format=frame.output_format,
            data=[
                self._item(data, frame, seed, drawn, base_url) for data, seed in zip(files, frame.seeds, strict=True)
            ],
            usage=TokenUsage.of(drawn.usage),
        )
        body = answer.model_dump_json().encode()
        png_ms = (time.monotonic() - started) * 1e3
        return Answer(body, {**drawn.timings_ms, "decode": prepared.decode_ms, "png": png_ms}, place=drawn.place)

    def _preview(self, frame: Frame, preview: Preview) -> str:
        return PartialImageEvent(
            **_picture_of(frame, finish(frame, [preview.pixels])[0]),
            image_index=preview.image,
            partial_image_index=preview.index,
        ).model_dump_json()

    def _completed(self, edit: PreparedEdit, edited: EditResult | None) -> list[str]:
        drawn, frame = edited or NOTHING_DRAWN, edit.frame
        files = finish(frame, edited and edited.images)
        return [
            CompletedEvent(
                **_picture_of(frame, data),
                image_index=index,
                model=edit.model,
                seed=seed,
                revised_prompt=drawn.revised_prompt,
                usage=TokenUsage.of(drawn.usage),
            ).model_dump_json()
            for index, (data, seed) in enumerate(zip(files, frame.seeds, strict=True))
        ]

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


def _size_of(frame: Frame) -> str:
    width, height = frame.size
    return f"{width}x{height}"


def _picture_of(frame: Frame, data: bytes) -> dict[str, Any]:
    """What every event with a picture says of it."""
    return {
        "b64_json": pybase64.b64encode_as_string(data),
        "created_at": int(time.time()),
        "size": _size_of(frame),
        "output_format": frame.output_format,
    }
