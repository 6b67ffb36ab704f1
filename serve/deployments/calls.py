"""Calls from one deployment to another: Ray's errors become ours, and a caller that leaves cancels what it started."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.experimental import get_local_object_locations
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentResponse, DeploymentResponseGenerator

from serve.errors import BackendUnavailable, EditError, InternalError

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

RESTART_S = 5.0
"""After which a retry finds the replacement of a replica that died, where its model loads that fast."""

Call = DeploymentResponse[Any] | DeploymentResponseGenerator[Any]


class ReplicaLost(BackendUnavailable):
    """The replica that had the call died, or the object store lost what it was given."""


async def answered(call: Call, *before: Call) -> Any:
    """The deployment's answer, with Ray's errors translated.

    before: calls whose responses this one was given. A caller that leaves cancels them all.
    """
    try:
        result = await cast(DeploymentResponse[Any], call)
    except asyncio.CancelledError:
        for one in (call, *before):
            one.cancel()
        raise
    except (RayError, RayServeException) as error:
        raise _translated(error) from error
    return succeeded(result)


async def taken(call: Call, unless: Coroutine[Any, Any, None]) -> bool:
    """Whether a replica has got the call before the other has ended. A call that none has got is cancelled."""
    # What `await call` begins with; nothing else tells a call that waits from one that runs.
    placed = asyncio.ensure_future(call._fetch_future_result_async())  # pyright: ignore[reportPrivateUsage]
    ended = asyncio.ensure_future(unless)
    try:
        await asyncio.wait((placed, ended), return_when=asyncio.FIRST_COMPLETED)
        if not placed.done():
            call.cancel()
            ended.result()
            return False
        await placed
    except asyncio.CancelledError:
        call.cancel()
        raise
    except (RayError, RayServeException) as error:
        raise _translated(error) from error
    finally:
        ended.cancel()
    return True


async def intact(call: Call) -> None:
    """Until a call has ended whose answer another is to be given. The answer stays where it is, unless it is small.

    Raises ReplicaLost where there is none. Ray would send the other again and again, without end, where the reason is a
    replica that cannot be reached: it takes that for the other's own.
    """
    try:
        answer = await cast(DeploymentResponse[Any], call)._to_object_ref()  # pyright: ignore[reportPrivateUsage]
        known = get_local_object_locations([answer]).get(answer)
        if not (known and known["node_ids"]):  # it is small, or an error
            await answer
    except asyncio.CancelledError:
        call.cancel()
        raise
    except (RayError, RayServeException) as error:
        raise _translated(error) from error


async def told(call: Call) -> AsyncGenerator[Any]:
    """What a deployment's generator yields, with Ray's errors translated. A caller that leaves cancels the call."""
    try:
        async for item in cast(DeploymentResponseGenerator[Any], call):
            yield succeeded(item)
    except (RayError, RayServeException) as error:
        raise _translated(error) from error
    finally:
        call.cancel()


def succeeded(result: T | EditError) -> T:
    """The result of a call; raises it where it is an error."""
    if isinstance(result, EditError):
        raise result
    return result


def refusals_as_results(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | EditError]]:
    """Make a deployment's method return its EditErrors, which `answered` raises again at the caller.

    Ray logs every exception that leaves a replica, with its traceback, as a fault of the server's.
    """

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T | EditError:
        try:
            return await method(*args, **kwargs)
        except EditError as error:
            return error

    return call


def _translated(error: Exception) -> EditError | asyncio.CancelledError:
    """A method that raised is our bug, unless what it raised is Ray's: an argument can be lost with its node.

    Ray cancels what a request has called when its client leaves, and of that a caller may hear before it is cancelled
    itself.
    """
    if isinstance(error, TaskCancelledError):
        return asyncio.CancelledError()
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        logger.error("a deployment failed", exc_info=error)
        return InternalError("the server failed to answer; the request was not at fault")
    logger.warning("a replica was lost: %s", error)
    return ReplicaLost("a process of the server is being replaced; try again", retry_after_s=RESTART_S)
