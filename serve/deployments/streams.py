"""An edit as server-sent events: what it will look like and how far it is, then each result."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from ray.serve.handle import DeploymentHandle
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from serve.deployments.calls import Call, ReplicaLost, answered, told
from serve.deployments.deadline import SHOWN_CHARACTERS, Deadline
from serve.deployments.editors import Editors
from serve.deployments.followed import Followed
from serve.engine.watch import Event
from serve.errors import EditError, InvalidRequest
from serve.schema import ERROR_EVENT, CompletedEvent, ErrorBody, PartialImageEvent, ProgressEvent
from serve.types import EditResult, Preview, Progress, QueuePlace

PROGRESS_HEADER = "x-progress"


class EditStream:
    """One edit that is watched. drawn_by: editors and its model; None where nothing is left to draw. one: its request.

    progress: whether the caller asked for every step's event.
    """

    def __init__(
        self,
        codec: DeploymentHandle[Any],
        drawn_by: tuple[Editors, str] | None,
        prepared: Call,
        deadline: Deadline,
        one: Followed,
        *,
        progress: bool,
    ) -> None:
        self._codec = codec
        self._drawn_by = drawn_by
        self._prepared = prepared
        self._deadline = deadline
        self._followed = one
        self._progress = progress
        self._shown: set[tuple[int, int]] = set()
        self._happened = self._watch()

    async def begin(self) -> QueuePlace:
        """Where the edit stands in the queue. Raises EditError: it was not taken, and there is no stream."""
        place = await anext(self._happened)
        assert isinstance(place, QueuePlace)
        return place

    async def events(self) -> AsyncGenerator[ServerSentEvent]:
        """After `begin`, the rest. What the edit fails with is its last event."""
        try:
            async with self._deadline.kept(), aclosing(self._happened) as happened:
                async for event in happened:
                    async for sent in self._sent(event):
                        yield sent
        except EditError as error:
            self._followed.refused(error)
            yield ServerSentEvent(ErrorBody.of(error).model_dump_json(), event=ERROR_EVENT)

    async def _sent(self, event: Event | EditResult | None) -> AsyncGenerator[ServerSentEvent]:
        match event:
            case Progress() if self._progress:
                body = ProgressEvent(image_index=event.image, step=event.step, total=event.total)
                yield ServerSentEvent(body.model_dump_json(), event=body.type)
            case Preview() if (event.image, event.index) not in self._shown:
                self._shown.add((event.image, event.index))
                picture = await answered(self._codec.preview.remote(self._prepared, event))
                yield ServerSentEvent(picture, event=PartialImageEvent.model_fields["type"].default)
            case EditResult() | None:
                completed = await answered(self._codec.completed.remote(self._prepared, event))
                self._followed.took(completed.timings_ms)
                for body in completed.bodies:
                    yield ServerSentEvent(body, event=CompletedEvent.model_fields["type"].default)
            case _:
                pass

    async def _watch(self) -> AsyncGenerator[Event | EditResult | None]:
        """Once more on another replica where one has died: the same seed draws the same."""
        if self._drawn_by is None:
            yield QueuePlace(0, 0.0)
            yield None
            return
        try:
            async with aclosing(self._drawn(*self._drawn_by)) as happened:
                async for event in happened:
                    yield event
        except ReplicaLost:
            async with aclosing(self._drawn(*self._drawn_by)) as happened:
                async for event in happened:
                    yield event

    async def _drawn(self, editors: Editors, model: str) -> AsyncGenerator[Event | EditResult]:
        call = editors.of(model).options(stream=True).watch.remote(self._prepared, self._deadline.left_s())
        await editors.taken(model, call)
        async with aclosing(told(call)) as happened:
            async for event in happened:
                yield event


def wants_progress(headers: Headers) -> bool:
    """Raises InvalidRequest for a header that says neither."""
    asked = headers.get(PROGRESS_HEADER, "false").lower()
    if asked not in ("true", "false"):
        raise InvalidRequest(f"the header {PROGRESS_HEADER} is {asked[:SHOWN_CHARACTERS]!r}; it must be true or false")
    return asked == "true"


class StreamResponse(EventSourceResponse):
    """held: closed when the stream has ended, however it did."""

    def __init__(self, stream: EditStream, held: AsyncExitStack, keep_alive_s: float, headers: dict[str, str]) -> None:
        super().__init__(stream.events(), ping=keep_alive_s, headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)
