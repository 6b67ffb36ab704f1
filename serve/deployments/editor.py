"""The deployment that owns a model: one engine a replica, one deployment a model."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from serve.backends import load_backend
from serve.deployments.calls import refusals_as_results
from serve.deployments.logs import adopt_serve_logging
from serve.engine.engine import Engine, EngineStats
from serve.families import load_family
from serve.settings import ModelSettings
from serve.types import EditJob, Pixels, Usage

DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit that has run. pictures: a reference to the tuple of (H, W, 3) arrays, which stay in the object store."""

    pictures: ray.ObjectRef[tuple[Pixels, ...]]
    usage: Usage
    timings_ms: Mapping[str, float]


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
    async def edit(self, job: EditJob) -> Edited:
        """Run one job, which comes by reference: its arrays are read-only views of the object store."""
        future = self._engine.submit(job)
        try:
            result = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._engine.cancel(job.request_id)
            raise
        pictures = await asyncio.to_thread(ray.put, result.images)
        return Edited(pictures, result.usage, result.timings_ms)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self._engine.healthy():
            raise RuntimeError("the engine's thread has died")

    async def __del__(self) -> None:
        """Ray Serve awaits this before it stops the replica."""
        await asyncio.to_thread(self._engine.drain, DRAIN_S)
