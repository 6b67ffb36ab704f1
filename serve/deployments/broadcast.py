"""A question to every replica of a deployment, which those that are silent do not hold up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)
ANSWER_TIMEOUT_S = 2.0
LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Heard:
    """silent: replicas that run and did not answer within ANSWER_TIMEOUT_S."""

    answers: Sequence[Any] = ()
    silent: int = 0


async def ask_all(deployment: DeploymentHandle[Any], method: str) -> Heard:
    """The answers of the replicas that run; none of them where Ray does not know any, or does not say so in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            # `results_async` would give nothing at all where one replica is silent.
            calls = await deployment.broadcast(method)._fetch_replica_results_async()  # pyright: ignore[reportPrivateUsage]
    except (TimeoutError, RayError, RayServeException):
        return Heard()
    return _heard(await asyncio.gather(*(_answer(call.get_async(), call.cancel) for call in calls)))


async def ask_busy(deployment: DeploymentHandle[Any]) -> Heard:
    """What the replicas that run say when Ray Serve asks them for itself, by `record_routing_stats`.

    A broadcast waits its turn among a replica's requests, of which a busy one has no end.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            replicas = await _replicas(deployment)
    except TimeoutError:
        return Heard()
    calls = [replica._actor_handle.record_routing_stats.remote() for replica in replicas]
    return _heard(await asyncio.gather(*(_answer(call, partial(ray.cancel, call)) for call in calls)))


async def _replicas(deployment: Any) -> list[Any]:
    """Those that requests are given to. The deployment's handle hears of them by itself, once it is used."""
    router = deployment._init_router()._asyncio_router
    while router.request_router is None:  # noqa: ASYNC110  # There is no event that tells it.
        await asyncio.sleep(LOOK_EVERY_S)
    return list(router.request_router.curr_replicas.values())


def _heard(answers: Sequence[Any]) -> Heard:
    heard = [answer for answer in answers if answer is not None]
    return Heard(heard, silent=len(answers) - len(heard))


async def _answer(call: Awaitable[Any], cancel: Callable[[], object]) -> Any:
    """None where there is none in time; a silent replica does not gather questions."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await call
    except TimeoutError:
        cancel()
        logger.warning("a replica did not say how it is within %s s", ANSWER_TIMEOUT_S)
    except (RayError, RayServeException) as error:
        logger.warning("a replica did not say how it is: %r", error)
    return None
