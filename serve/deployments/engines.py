"""What the engines of all models say of themselves, asked of every replica."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve.metrics import EngineFigures

logger = logging.getLogger(__name__)
ANSWER_TIMEOUT_S = 2.0
FRESH_S = 1.0
"""How long an answer is used again where requests are refused, which may be often."""

Figures = Mapping[str, Sequence[EngineFigures]]
"""Of the replicas of each model, by its id."""


class Engines:
    """editors: by the id of their model."""

    def __init__(self, editors: Mapping[str, DeploymentHandle[Any]]) -> None:
        self._editors = editors
        self._asking = asyncio.Lock()
        self._longest_s = 0.0
        self._stale_at_s = -float("inf")

    async def figures(self) -> Figures:
        """Of the replicas that answer within ANSWER_TIMEOUT_S; the others are left out."""
        answers = await asyncio.gather(*map(_ask, self._editors.values()))
        return dict(zip(self._editors, answers, strict=True))

    async def longest_queue_s(self) -> float:
        """`longest_queue_s` of at most FRESH_S ago; however many ask for it, the engines are asked once."""
        async with self._asking:
            if time.monotonic() >= self._stale_at_s:
                self._longest_s = longest_queue_s(await self.figures())
                self._stale_at_s = time.monotonic() + FRESH_S
            return self._longest_s


def longest_queue_s(figures: Figures) -> float:
    """Seconds, estimated, until every model has done what it has now: its replicas share what comes to it."""
    return max(
        (fmean(one.values["queued_s"] for one in replicas) for replicas in figures.values() if replicas), default=0.0
    )


async def _ask(editor: DeploymentHandle[Any]) -> list[EngineFigures]:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            # `results_async` would give nothing at all where one replica is silent.
            calls = await editor.broadcast("figures")._fetch_replica_results_async()  # pyright: ignore[reportPrivateUsage]
    except (TimeoutError, RayError, RayServeException):
        return []
    answers = await asyncio.gather(*(_answer(call) for call in calls))
    return [answer for answer in answers if answer is not None]


async def _answer(call: Any) -> EngineFigures | None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await call.get_async()
    except (TimeoutError, RayError, RayServeException) as error:
        logger.warning("a replica did not say how it is: %r", error)
        return None
