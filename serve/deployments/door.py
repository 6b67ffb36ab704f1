"""Who comes in, and what each has left of its limits."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context
from typing import Any

from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import Headers

from serve.auth import ANYONE, Keys, Principal
from serve.deployments.calls import answered
from serve.errors import EditError
from serve.settings import AuthSettings

logger = logging.getLogger(__name__)
ALIVE_S = 5.0


class Door:
    """quotas: where limits are counted; None on a server without keys."""

    def __init__(self, auth: AuthSettings, quotas: DeploymentHandle[Any] | None) -> None:
        self._keys = Keys(auth.keys_file) if auth.keys_file else None
        self._quotas = quotas
        self._owner = ray_serve.get_replica_context().replica_id.unique_id
        self._pulse: asyncio.Task[None] | None = None
        self._leases: set[int] = set()

    def principal(self, headers: Headers) -> Principal:
        """Raises MissingAPIKey, InvalidAPIKey."""
        return ANYONE if self._keys is None else self._keys.principal(headers.get("authorization", ""))

    @asynccontextmanager
    async def request(self, principal: Principal) -> AsyncGenerator[Mapping[str, str]]:
        """Count a request. Gives headers for its answer, which refusals in the context have too. Raises RateLimited."""
        if self._quotas is None or principal.limits.requests_per_minute is None:
            yield {}
            return
        headers = await answered(self._quotas.request.remote(principal))
        with _told_of(headers):
            yield headers

    @asynccontextmanager
    async def images(self, principal: Principal, count: int) -> AsyncGenerator[Mapping[str, str]]:
        """Count images, in flight as long as the context is open. Otherwise as `request`."""
        limits = principal.limits
        if self._quotas is None or (limits.images_per_minute is None and limits.images_in_flight is None):
            yield {}
            return
        self._pulse = self._pulse or asyncio.get_running_loop().create_task(
            self._say_alive(self._quotas),
            context=Context(),  # not that of the request which comes first
        )
        lease, headers = await answered(self._quotas.begin.remote(principal, count, self._owner))
        self._leases.add(lease)
        try:
            with _told_of(headers):
                yield headers
        finally:
            self._leases.discard(lease)
            # Not awaited, since whoever leaves is being cancelled.
            self._quotas.end.remote(self._owner, lease)

    async def _say_alive(self, quotas: DeploymentHandle[Any]) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            with suppress(EditError):
                await answered(quotas.alive.remote(self._owner, frozenset(self._leases)))


@contextmanager
def _told_of(limits: Mapping[str, str]) -> Generator[None]:
    try:
        yield
    except EditError as error:
        error.limits = {**limits, **error.limits}
        raise
