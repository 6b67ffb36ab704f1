"""A question to every replica of a deployment, which those that are silent do not hold up."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)
ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Heard:
    """silent: replicas that run and did not answer within ANSWER_TIMEOUT_S."""

    answers: Sequence[Any] = ()
    silent: int = 0


async def ask_all(deployment: DeploymentHandle[Any], method: str) -> Heard:
    """The answers of the replicas that run; none of them where Ray does not know any."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            # `results_async` would give nothing at all where one replica is silent.
            calls = await deployment.broadcast(method)._fetch_replica_results_async()  # pyright: ignore[reportPrivateUsage]
    except (TimeoutError, RayError, RayServeException):
        return Heard()
    answers = await asyncio.gather(*(_answer(call) for call in calls))
    heard = [answer for answer in answers if answer is not None]
    return Heard(heard, silent=len(answers) - len(heard))


async def _answer(call: Any) -> Any:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await call.get_async()
    except (TimeoutError, RayError, RayServeException) as error:
        logger.warning("a replica did not say how it is: %r", error)
        return None
