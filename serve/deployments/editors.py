"""The editors of all models. A cluster that is given another configuration replaces its processes one by one, so that
for a while some know a model that others do not."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any

from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve.deployments.calls import RESTART_S, Call, taken
from serve.errors import BackendUnavailable

LOOK_EVERY_S = 2.0

Deployed = Callable[[str], Collection[str]]
"""The names of the deployments of an application; none where they are not known."""


class Editors:
    """handles: by the id of their model. deployed: asks Ray Serve, and blocks."""

    def __init__(self, handles: Mapping[str, DeploymentHandle[Any]], deployed: Deployed | None = None) -> None:
        self._handles = handles
        self._deployed = deployed or _deployed
        self._look: asyncio.Task[Collection[str]] | None = None
        self._looked_s = -float("inf")

    def of(self, model: str) -> DeploymentHandle[Any]:
        """Raises BackendUnavailable for one that comes or goes just now."""
        if model not in self._handles:
            raise _changing(model)
        return self._handles[model]

    async def taken(self, model: str, call: Call) -> None:
        """Until a replica has the call, however long all are busy, or none is there yet.

        Raises BackendUnavailable where the model is no longer served: Ray would let the call wait for ever.
        """
        if not await taken(call, self._removed(model)):
            raise _changing(model)

    async def _removed(self, model: str) -> None:
        """Until the model's deployment is none of the application's."""
        handle = self._handles[model]
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            with suppress(RayError, RayServeException):
                known = await asyncio.shield(self._looked(handle.app_name))
                if known and handle.deployment_name not in known:
                    return

    def _looked(self, application: str) -> "asyncio.Task[Collection[str]]":
        """One look for all that wait; it may take as long as the controller is away, and then holds one thread."""
        now_s = time.monotonic()
        if self._look is None or (self._look.done() and now_s >= self._looked_s + LOOK_EVERY_S):
            look = asyncio.to_thread(self._deployed, application)
            # In a context of its own, not that of the request which comes first.
            self._look, self._looked_s = asyncio.get_running_loop().create_task(look, context=Context()), now_s
        return self._look


def _deployed(application: str) -> Collection[str]:
    """None where that is not known: while Ray Serve builds an application anew, and where that has failed."""
    found = ray_serve.status().applications.get(application)
    return found.deployments if found else ()


def _changing(model: str) -> BackendUnavailable:
    return BackendUnavailable(f"the model {model} is being added or removed; try again", retry_after_s=RESTART_S)
