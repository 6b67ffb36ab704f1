"""The deployment that owns a model: one engine a replica, one deployment a model."""

import asyncio

from serve.backends import load_backend
from serve.deployments.calls import refusals_as_results
from serve.deployments.logs import adopt_serve_logging
from serve.deployments.messages import Prepared
from serve.engine.engine import Engine, EngineStats
from serve.errors import BackendUnavailable
from serve.families import load_family
from serve.settings import ModelSettings
from serve.types import EditResult

STOP_S = 5.0


class Editor:
    """Runs edits of one model. Every call ends when its edit has ended, or when its caller has left."""

    def __init__(self, model: ModelSettings, log_level: str) -> None:
        adopt_serve_logging(log_level)
        backend = load_backend(model)
        self._engine = Engine(
            load_family(model, backend),
            batch_invariant=backend.batch_invariant,
            max_batch=model.max_batch,
            max_queued_rows=model.max_queued_rows,
            cache_bytes=model.cache_bytes,
        )
        self._engine.start()

    @refusals_as_results
    async def edit(self, prepared: Prepared) -> EditResult:
        """Run the job of a request that draws. Its arrays are read-only views of the object store."""
        job = prepared.edit.job
        assert job is not None
        # A caller that leaves cancels this method, and with it the engine's future, which frees the rows.
        return await asyncio.wrap_future(self._engine.submit(job))

    @refusals_as_results
    async def ping(self) -> None:
        """Raises BackendUnavailable where edits would fail."""
        self._refuse_when_dead()

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        self._refuse_when_dead()

    def _refuse_when_dead(self) -> None:
        if not self._engine.healthy():
            raise BackendUnavailable(f"the engine has died: {self._engine.failure()}")

    async def __del__(self) -> None:
        """Ray Serve awaits this once the replica's calls have ended, so the engine is idle."""
        await asyncio.to_thread(self._engine.drain, STOP_S)
