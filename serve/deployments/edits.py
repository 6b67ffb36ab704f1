"""The way of one edit through the other deployments, for whoever answers it."""

from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.deployments.calls import Call, ReplicaLost, answered, intact
from serve.deployments.deadline import Deadline
from serve.deployments.editors import Editors
from serve.deployments.messages import Answer, Prepared, Ticket


class Edits:
    """Pixels never pass through here: responses are handed on to the next call, and not awaited."""

    def __init__(self, codec: DeploymentHandle[Any], editors: Editors) -> None:
        self._codec = codec
        self._editors = editors

    async def answer(self, prepared: Call | Prepared, ticket: Ticket, base_url: str, deadline: Deadline) -> Answer:
        """Draw and finish; once more on other replicas where one has died, since an edit has no side effect."""
        try:
            return await self._draw_and_finish(prepared, ticket, base_url, deadline)
        except ReplicaLost:
            return await self._draw_and_finish(prepared, ticket, base_url, deadline)

    async def _draw_and_finish(
        self, prepared: Call | Prepared, ticket: Ticket, base_url: str, deadline: Deadline
    ) -> Answer:
        if not ticket.draws:
            return await answered(self._codec.finish.remote(prepared, None, base_url))
        edited = self._editors.of(ticket.model).edit.remote(prepared, deadline.left_s())
        await self._editors.taken(ticket.model, edited)
        await intact(edited)
        return await answered(self._codec.finish.remote(prepared, edited, base_url), edited)
