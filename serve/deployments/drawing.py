"""An edit in the engine as the log and its trace tell of it."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager

from serve.deployments.logs import say
from serve.deployments.tracing import LEFT, Tracing, work_for
from serve.engine.trail import Trail
from serve.prepare import PreparedEdit
from serve.types import EditJob, EditResult

logger = logging.getLogger(__name__)


@contextmanager
def drawing(edit: PreparedEdit, tracing: Tracing) -> Generator[tuple[EditJob, Trail | None]]:
    """While the job of a request that draws is in the engine. Gives it, and what is to keep its stages, if anything."""
    job, origin = edit.job, edit.origin
    assert job is not None
    work_for(origin)
    height, width, _ = job.canvas.shape
    told = {"model": edit.model, "size": f"{width}x{height}", "steps": job.steps, "rows": len(job.seeds)}
    with tracing.span("edit", origin.trace, **told, references=len(job.references)) as span:
        trail = Trail() if span.is_recording() else None
        try:
            yield job, trail
        except (asyncio.CancelledError, GeneratorExit):
            say(logger, LEFT, **told)
            raise
        finally:
            if trail is not None:
                tracing.stages(span, trail)


def drawn(edit: PreparedEdit, result: EditResult) -> EditResult:
    """The line of one that ended well."""
    timings_ms = {f"{stage}_ms": round(spent, 1) for stage, spent in result.timings_ms.items()}
    say(logger, "drawn", model=edit.model, rows=len(result.images), **timings_ms)
    return result
