"""The deployment that turns bytes into pictures and back, on CPU replicas scaled on their own."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import pybase64
from ray import serve as ray_serve

from serve.deployments.calls import refusals_as_results, succeeded
from serve.deployments.heap import return_pictures_at_once
from serve.deployments.logs import adopt_serve_logging, say
from serve.deployments.messages import Answer, Completed, Prepared, Ticket
from serve.deployments.tracing import Tracing, carrier, work_for
from serve.errors import EditError
from serve.links import Links
from serve.metrics import CodecCounts, ProcessFigures
from serve.prepare import Frame, Origin, PreparedEdit, finish, prepare, read
from serve.schema import CompletedEvent, EditResponse, ImageItem, PartialImageEvent, TokenUsage
from serve.settings import Settings
from serve.storage import Storage, StoreUnreachable, open_storage
from serve.types import EditResult, Form, ModelFacts, OutputFormat, Preview, Usage

logger = logging.getLogger(__name__)
SWEEP_INTERVAL_S = 60.0
UPLOAD_THREADS = 32
"""They wait for the store, whose failures must not hold up the threads that compute."""
NOTHING_DRAWN = EditResult(images=(), usage=Usage(0, 0, 0), timings_ms={}, revised_prompt=None)
T = TypeVar("T")


class Codec:
    """Two CPU stages of a request. Threads do the work: zlib and numpy let go of the interpreter's lock."""

    def __init__(self, settings: Settings, facts: Mapping[str, ModelFacts]) -> None:
        adopt_serve_logging(settings.server.log_level)
        return_pictures_at_once()
        self._tracing = Tracing()
        self._settings = settings
        self._facts = facts
        self._fetcher = Links(settings.links, settings.limits.image_bytes)
        self._store = _checked(open_storage(settings.storage))
        self._threads = ThreadPoolExecutor(settings.server.codec_threads, thread_name_prefix="codec")
        self._counts = CodecCounts(settings.server.codec_threads)
        self._uploads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
        threading.Thread(target=self._sweep_for_ever, name="sweep", daemon=True).start()

    @refusals_as_results
    async def prepare(self, body: bytes | Form, origin: Origin) -> Prepared:
        """Validate and decode a body. Raises an EditError that names the parameter at fault."""
        work_for(origin)
        started = time.monotonic()
        with self._tracing.span("prepare", origin.trace):
            request = await self._fetcher.fetched(await self._in_thread(lambda: read(body)))
            edit = await self._in_thread(lambda: prepare(request, origin, self._settings, self._facts))
        prepared = Prepared(edit, decode_ms=(time.monotonic() - started) * 1e3)
        _say("prepared", prepared, images=len(edit.frame.seeds), decode_ms=round(prepared.decode_ms, 1))
        return prepared

    @refusals_as_results
    async def ticket(self, prepared: Prepared | EditError) -> Ticket:
        """The little that the ingress reads of what `prepare` has answered; raises what that was refused with."""
        edit = succeeded(prepared).edit
        images, draws = len(edit.frame.seeds), edit.job is not None
        return Ticket(edit.model, images, edit.fingerprint, draws, edit.stream, edit.caller)

    @refusals_as_results
    async def finish(self, prepared: Prepared, edited: EditResult | EditError | None, base_url: str) -> Answer:
        """Compose, encode and store. edited: None where nothing was drawn. Raises what the edit failed with."""
        drawn, origin, by_url = succeeded(edited), prepared.edit.origin, prepared.edit.frame.by_url
        work_for(origin)
        with self._tracing.span("finish", origin.trace) as span:
            with self._tracing.span("png", carrier(span)):
                files, png_ms = await self._in_thread(lambda: _encoded(prepared, drawn))
            started = time.monotonic()
            with self._tracing.span("store", carrier(span) if by_url else {}):
                links = await self._links(files, prepared.edit.frame, base_url)
            timings_ms = {"png": png_ms} | ({"store": (time.monotonic() - started) * 1e3} if by_url else {})
            answer = await self._in_thread(lambda: _answer(prepared, drawn or NOTHING_DRAWN, files, links, timings_ms))
        _say("finished", prepared, png_ms=round(png_ms, 1))
        return answer

    @refusals_as_results
    async def preview(self, prepared: Prepared, preview: Preview) -> str:
        """The JSON of a `PartialImageEvent`."""
        work_for(prepared.edit.origin)
        with self._tracing.span("preview", prepared.edit.origin.trace, image=preview.image, index=preview.index):
            return await self._in_thread(lambda: _preview(prepared.edit.frame, preview))

    @refusals_as_results
    async def completed(self, prepared: Prepared, edited: EditResult | None) -> Completed:
        """As `finish`, for a stream."""
        work_for(prepared.edit.origin)
        with self._tracing.span("finish", prepared.edit.origin.trace):
            completed = await self._in_thread(lambda: _completed(prepared, edited))
        _say("finished", prepared)
        return completed

    async def figures(self) -> ProcessFigures:
        """What this process has counted."""
        return self._counts.figures(ray_serve.get_replica_context().replica_tag)

    async def ping(self) -> None:
        """Whether this process answers. It does so at once: full threads are load, not a fault."""

    async def __del__(self) -> None:
        """Ray Serve awaits this once the replica's calls have ended."""
        await self._tracing.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """In one that computes."""
        task = _within_request(self._threads, work)
        self._counts.watch(task)
        return await asyncio.wrap_future(task)

    async def _links(self, files: Sequence[bytes], frame: Frame, base_url: str) -> list[str]:
        """One to each file, where links were asked for. The files are stored at the same time."""
        if not frame.by_url:
            return []
        put = partial(self._put, output_format=frame.output_format, base_url=base_url)
        return await asyncio.gather(
            *(asyncio.wrap_future(_within_request(self._uploads, partial(put, data))) for data in files)
        )

    def _put(self, data: bytes, output_format: OutputFormat, base_url: str) -> str:
        with self._counts.storing():
            return self._store.put(data, output_format, base_url)

    def _sweep_for_ever(self) -> None:
        never = threading.Event()
        while not never.wait(SWEEP_INTERVAL_S):
            try:
                self._store.sweep()
            except EditError as error:
                logger.warning("the store was not swept: %s", error)


def _within_request(threads: Executor, work: Callable[[], T]) -> Future[T]:
    """In one of the threads. The log tells what is said there as of the request."""
    return threads.submit(copy_context().run, work)


def _say(event: str, prepared: Prepared, **fields: float) -> None:
    say(logger, event, model=prepared.edit.model, **fields)


def _checked(store: Storage) -> Storage:
    """A replica that is made while the store is away still answers in base64; a wrong configuration stops it."""
    try:
        store.check()
    except StoreUnreachable as error:
        logger.warning("%s", error)
    return store


def _encoded(prepared: Prepared, drawn: EditResult | None) -> tuple[list[bytes], float]:
    """The files, and the milliseconds that they took."""
    started = time.monotonic()
    files = finish(prepared.edit.frame, drawn and drawn.images, prepared.edit.notes)
    return files, (time.monotonic() - started) * 1e3


def _answer(
    prepared: Prepared,
    drawn: EditResult,
    files: Sequence[bytes],
    links: Sequence[str],
    timings_ms: Mapping[str, float],
) -> Answer:
    """links: one a file, or none where the files themselves are the answer. timings_ms: of what came after drawing."""
    frame = prepared.edit.frame
    pictures = [{"url": link} for link in links] or [{"b64_json": pybase64.b64encode_as_string(one)} for one in files]
    answer = EditResponse(
        created=int(time.time()),
        model=prepared.edit.model,
        size=_size_of(frame),
        output_format=frame.output_format,
        data=[
            ImageItem(**picture, seed=seed, revised_prompt=drawn.revised_prompt)
            for picture, seed in zip(pictures, frame.seeds, strict=True)
        ],
        usage=TokenUsage.of(drawn.usage),
    )
    all_ms = {**drawn.timings_ms, "decode": prepared.decode_ms, **timings_ms}
    return Answer(answer.model_dump_json().encode(), all_ms, place=drawn.place)


def _preview(frame: Frame, preview: Preview) -> str:
    return PartialImageEvent(
        **_picture_of(frame, finish(frame, [preview.pixels])[0]),
        image_index=preview.image,
        partial_image_index=preview.index,
    ).model_dump_json()


def _completed(prepared: Prepared, edited: EditResult | None) -> Completed:
    drawn, edit = edited or NOTHING_DRAWN, prepared.edit
    files, png_ms = _encoded(prepared, edited)
    timings_ms = {**drawn.timings_ms, "decode": prepared.decode_ms, "png": png_ms}
    return Completed(_completed_events(edit, drawn, files), timings_ms)


def _completed_events(edit: PreparedEdit, drawn: EditResult, files: Sequence[bytes]) -> list[str]:
    frame = edit.frame
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
