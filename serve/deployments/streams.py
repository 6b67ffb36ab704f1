"""An edit as server-sent events: what it will look like and how far it is, then each result."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from serve.deployments.deadline import SHOWN_CHARACTERS, Deadline
from serve.deployments.followed import Followed
from serve.deployments.messages import Begun, Completed, Happening, Shown
from serve.errors import EditError, InvalidRequest
from serve.schema import ERROR_EVENT, CompletedEvent, ErrorBody, PartialImageEvent, ProgressEvent
from serve.types import Progress

PROGRESS_HEADER = "x-progress"


class EditStream:
    """One edit that is watched. happened: `Begun` first, `Completed` last. one: its request.

    progress: whether the caller asked for every step's event.
    """

    def __init__(
        self,
        happened: AsyncGenerator[Happening | Completed],
        deadline: Deadline,
        one: Followed,
        *,
        progress: bool,
    ) -> None:
        self._happened = happened
        self._deadline = deadline
        self._followed = one
        self._progress = progress
        self._replayed = False

    async def begin(self) -> Begun:
        """Raises EditError: the edit was not taken, and there is no stream."""
        begun = await anext(self._happened)
        assert isinstance(begun, Begun)
        self._replayed = begun.replayed
        return begun

    async def events(self) -> AsyncGenerator[ServerSentEvent]:
        """After `begin`, the rest. What the edit fails with is its last event."""
        try:
            async with self._deadline.kept(), aclosing(self._happened) as happened:
                async for event in happened:
                    for sent in self._sent(event):
                        yield sent
        except EditError as error:
            self._followed.refused(error)
            yield ServerSentEvent(ErrorBody.of(error).model_dump_json(), event=ERROR_EVENT)

    def _sent(self, event: Happening | Completed) -> Iterator[ServerSentEvent]:
        match event:
            case Progress() if self._progress:
                body = ProgressEvent(image_index=event.image, step=event.step, total=event.total)
                yield ServerSentEvent(body.model_dump_json(), event=body.type)
            case Shown():
                yield ServerSentEvent(event.body, event=PartialImageEvent.model_fields["type"].default)
            case Completed():
                self._followed.took(event.timings_ms, replayed=self._replayed)
                for body in event.bodies:
                    yield ServerSentEvent(body, event=CompletedEvent.model_fields["type"].default)
            case _:
                pass


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
