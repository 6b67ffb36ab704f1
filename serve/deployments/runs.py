"""The deployment that owns the runs of requests which may be sent again, so that they outlive who received them."""

from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.deployments.calls import refusals_as_results, succeeded
from serve.deployments.deadline import Deadline
from serve.deployments.editors import Editors
from serve.deployments.edits import Edits
from serve.deployments.heap import return_pictures_at_once
from serve.deployments.logs import adopt_serve_logging
from serve.deployments.messages import Answer, Prepared, Ticket
from serve.deployments.runbook import Claim, RunBook
from serve.deployments.tracing import work_for
from serve.errors import EditError
from serve.settings import Settings


class Runs:
    """One replica, so that the same request always comes to the same place."""

    def __init__(
        self, settings: Settings, codec: DeploymentHandle[Any], editors: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        adopt_serve_logging(settings.server.log_level)
        return_pictures_at_once()
        self._edits = Edits(codec, Editors(editors))
        kept = settings.idempotency
        self._book = RunBook[Answer](kept.lifetime_s, kept.max_bytes, lambda answer: len(answer.body))

    @refusals_as_results
    async def answer(
        self, claim: Claim, prepared: Prepared | EditError, ticket: Ticket, base_url: str, limit_s: float
    ) -> tuple[Answer, bool]:
        """The answer, and whether it is that of an earlier request. limit_s: what is left of the request's time."""
        sound, deadline = succeeded(prepared), Deadline(limit_s)

        async def run() -> Answer:
            work_for(sound.edit.origin)
            async with deadline.kept():
                return await self._edits.answer(sound, ticket, base_url, deadline)

        return await self._book.answer(claim, run)

    async def ping(self) -> None:
        """Whether this process answers."""
