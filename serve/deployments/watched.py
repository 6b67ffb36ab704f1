"""An edit as it happens: its place in the queue, its steps, its previews, and in the end its results."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.deployments.calls import Call, ReplicaLost, answered, told
from serve.deployments.deadline import Deadline
from serve.deployments.editors import Editors
from serve.deployments.messages import Begun, Completed, Happening, Prepared, Shown, Ticket
from serve.engine.watch import Event
from serve.types import EditResult, Preview, Progress, QueuePlace

NO_QUEUE = QueuePlace(0, 0.0)
"""Of an edit of which nothing is left to draw."""


@dataclass(slots=True, frozen=True)
class Watching:
    """Edits that are drawn before the eyes of their callers."""

    codec: DeploymentHandle[Any]
    editors: Editors

    async def watch(
        self, prepared: Call | Prepared, ticket: Ticket, deadline: Deadline
    ) -> AsyncGenerator[Happening | Completed]:
        """`Begun` comes first, `Completed` last. Raises what the edit fails with."""
        shown = set[tuple[int, int]]()
        async with aclosing(self._drawn(prepared, ticket, deadline)) as happened:
            async for event in happened:
                match event:
                    case QueuePlace():
                        yield Begun(event)
                    case Progress():
                        yield event
                    case Preview() if (event.image, event.index) not in shown:
                        shown.add((event.image, event.index))
                        if (body := await self._preview(prepared, event)) is not None:
                            yield Shown(body)
                    case EditResult() | None:
                        yield await self._completed(prepared, event)
                    case _:
                        pass

    async def _preview(self, prepared: Call | Prepared, preview: Preview) -> str | None:
        """None where the codec's replica has died: so many are asked for at the most, and the edit goes on."""
        with suppress(ReplicaLost):
            return await answered(self.codec.preview.remote(prepared, preview))
        return None

    async def _completed(self, prepared: Call | Prepared, edited: EditResult | None) -> Completed:
        """Once more where the codec's replica has died: what was drawn is still here."""
        try:
            return await answered(self.codec.completed.remote(prepared, edited))
        except ReplicaLost:
            return await answered(self.codec.completed.remote(prepared, edited))

    async def _drawn(
        self, prepared: Call | Prepared, ticket: Ticket, deadline: Deadline
    ) -> AsyncGenerator[Event | EditResult | None]:
        """Once more on another replica where one has died: the same seed draws the same."""
        if not ticket.draws:
            yield NO_QUEUE
            yield None
            return
        try:
            async with aclosing(self._watched(prepared, ticket, deadline)) as happened:
                async for event in happened:
                    yield event
        except ReplicaLost:
            async with aclosing(self._watched(prepared, ticket, deadline)) as happened:
                async for event in happened:
                    yield event

    async def _watched(
        self, prepared: Call | Prepared, ticket: Ticket, deadline: Deadline
    ) -> AsyncGenerator[Event | EditResult]:
        editor = self.editors.of(ticket.model).options(stream=True)
        call = editor.watch.remote(prepared, deadline.left_s())
        await self.editors.taken(ticket.model, call)
        async with aclosing(told(call)) as happened:
            async for event in happened:
                yield event
