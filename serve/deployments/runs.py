"""The deployment that owns the runs of requests which may be sent again, so that they outlive who received them."""

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.deployments.calls import refusals_as_results, succeeded
from serve.deployments.deadline import Deadline
from serve.deployments.editors import Editors
from serve.deployments.edits import Edits
from serve.deployments.heap import return_pictures_at_once
from serve.deployments.logs import adopt_serve_logging
from serve.deployments.messages import Answer, Begun, Completed, Happening, Prepared, Ticket
from serve.deployments.runbook import Claim, RunBook, Tell
from serve.deployments.tracing import work_for
from serve.deployments.watched import Watching
from serve.errors import EditError
from serve.settings import Settings

LINKS_USEFUL = 0.5
"""Of their life: for so long an answer of links is given to others, who have what is left."""


class Runs:
    """One replica, so that the same request always comes to the same place."""

    def __init__(
        self, settings: Settings, codec: DeploymentHandle[Any], editors: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        adopt_serve_logging(settings.server.log_level)
        return_pictures_at_once()
        all_editors = Editors(editors)
        self._edits = Edits(codec, all_editors)
        self._watching = Watching(codec, all_editors)
        self._links_useful_s = settings.storage.lifetime_s * LINKS_USEFUL
        kept = settings.idempotency
        self._book = RunBook[Answer | Completed, Happening](kept.lifetime_s, kept.max_bytes, _bytes)

    @refusals_as_results
    async def answer(
        self, claim: Claim, prepared: Prepared | EditError, ticket: Ticket, base_url: str, limit_s: float
    ) -> tuple[Answer | Completed, bool]:
        """The answer, and whether it is that of an earlier request. limit_s: what is left of the request's time."""
        sound, deadline = succeeded(prepared), Deadline(limit_s)

        async def run() -> Answer:
            work_for(sound.edit.origin)
            async with deadline.kept():
                return await self._edits.answer(sound, ticket, base_url, deadline)

        useful_s = self._links_useful_s if sound.edit.frame.by_url else math.inf
        return await self._book.answer(claim, run, useful_s)

    async def watch(
        self, claim: Claim, prepared: Prepared | EditError, ticket: Ticket, limit_s: float
    ) -> AsyncGenerator[Happening | Completed | Answer | EditError]:
        """As `answer`, with all that happens on the way; what the edit failed with comes last."""
        try:
            sound, deadline = succeeded(prepared), Deadline(limit_s)

            async def run(tell: Tell[Happening]) -> Completed:
                work_for(sound.edit.origin)
                async with deadline.kept():
                    return await self._watched(sound, ticket, deadline, tell)

            async with aclosing(self._book.watch(claim, run)) as told:
                async for event, there in told:
                    yield replace(event, replayed=there) if isinstance(event, Begun) else event
        except EditError as error:
            yield error

    async def _watched(
        self, prepared: Prepared, ticket: Ticket, deadline: Deadline, tell: Tell[Happening]
    ) -> Completed:
        async with aclosing(self._watching.watch(prepared, ticket, deadline)) as happened:
            async for event in happened:
                if isinstance(event, Completed):
                    return event
                tell(event)
        raise AssertionError("an edit that is watched ends with its results")

    async def ping(self) -> None:
        """Whether this process answers."""


def _bytes(kept: Answer | Completed) -> int:
    return len(kept.body) if isinstance(kept, Answer) else sum(map(len, kept.bodies))
