"""The deployment that owns a model: one engine a replica, one deployment a model."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

from ray import serve as ray_serve

from serve.deployments.autoscaling import LoadMeter, published
from serve.deployments.calls import refusals_as_results
from serve.deployments.drawing import drawing, drawn
from serve.deployments.logs import adopt_serve_logging
from serve.deployments.messages import EditorState, Prepared
from serve.deployments.tracing import Tracing
from serve.engine.engine import EngineStats
from serve.engine.load import load_engine
from serve.engine.watch import Event
from serve.errors import BackendUnavailable, EditError
from serve.metrics import EngineFigures
from serve.settings import ModelSettings
from serve.types import EditResult

STOP_S = 5.0
CHECK_S = 1.5
"""Within which an executor must answer; less than `ask_busy` waits, which is for the figures as well."""


class Editor:
    """Runs edits of one model. Every call ends when its edit has ended, or when its caller has left.

    stuck_after_s: how long the device may be at one step until it is taken for hanging, and Ray Serve starts another
    replica in the place of this one.
    """

    def __init__(self, model: ModelSettings, cache_folder: Path, log_level: str, stuck_after_s: float) -> None:
        adopt_serve_logging(log_level)
        self._tracing = Tracing()
        self._engine = load_engine(model, cache_folder, stuck_after_s)
        self._engine.start()
        self._load = LoadMeter()

    @refusals_as_results
    async def edit(self, prepared: Prepared, time_limit_s: float) -> EditResult:
        """Run the job of a request that draws. Its arrays are read-only views of the object store.

        time_limit_s: what is left of the request's time. Raises Overloaded when the edit cannot end within it.
        """
        with drawing(prepared.edit, self._tracing) as (job, trail):
            # A caller that leaves cancels this method, and with it the engine's future, which frees the rows.
            result = await asyncio.wrap_future(self._engine.submit(job, time_limit_s, trail=trail))
        return drawn(prepared.edit, result)

    async def watch(self, prepared: Prepared, time_limit_s: float) -> AsyncGenerator[Event | EditResult | EditError]:
        """As `edit`, with all that happens on the way; the result, or what the edit failed with, comes last."""
        try:
            async with aclosing(self._watched(prepared, time_limit_s)) as happened:
                async for event in happened:
                    yield event
        except EditError as error:
            yield error

    def stats(self) -> EngineStats:
        return self._engine.stats()

    async def record_routing_stats(self) -> EditorState:
        """It has Ray Serve's name for what a replica is asked past its requests: see `ask_busy`.

        The stats go by name: a process that was handed an `EngineStats` would load the engine, and PyTorch with it.
        """
        figures = EngineFigures(ray_serve.get_replica_context().replica_tag, asdict(self.stats()))
        return EditorState(figures, await self._ready())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve asks for what the autoscaling goes by."""
        stats = self.stats()
        return published(stats.queued_s, stats.came_s, stats.jobs, self._load.after(stats.came_s))

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self._engine.healthy():
            raise BackendUnavailable(f"the engine does not work: {self._engine.failure()}")

    async def __del__(self) -> None:
        """Ray Serve awaits this once the replica's calls have ended, so the engine is idle."""
        await asyncio.to_thread(self._engine.drain, STOP_S)
        await self._tracing.close()

    async def _ready(self) -> bool:
        """An executor that is away leaves the replica as it is, which is then not ready."""
        try:
            async with asyncio.timeout(CHECK_S):
                await asyncio.to_thread(self._engine.check)
        except (BackendUnavailable, TimeoutError):
            return False
        return True

    async def _watched(self, prepared: Prepared, time_limit_s: float) -> AsyncGenerator[Event | EditResult]:
        loop, told = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def tell(event: Event | None) -> None:
            loop.call_soon_threadsafe(told.put_nowait, event)

        with drawing(prepared.edit, self._tracing) as (job, trail):
            future = self._engine.submit(job, time_limit_s, tell, trail)
            future.add_done_callback(lambda _: tell(None))
            try:
                while event := await told.get():
                    yield event
                result = await asyncio.wrap_future(future)
            finally:
                future.cancel()
        yield drawn(prepared.edit, result)
