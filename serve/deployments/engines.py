"""What the engines of all models say of themselves, asked of every replica."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.deployments.broadcast import Heard, ask_busy
from serve.metrics import EngineFigures

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

    async def heard(self) -> Mapping[str, Heard]:
        """`EngineFigures` of the replicas that answer in time, by the id of their model."""
        told = await asyncio.gather(*(ask_busy(editor) for editor in self._editors.values()))
        figures = (Heard([one.figures for one in heard.answers], heard.silent) for heard in told)
        return dict(zip(self._editors, figures, strict=True))

    async def ready(self, model: str) -> bool:
        """Whether a replica of the model can edit, however much it has to do."""
        heard = await ask_busy(self._editors[model])
        return any(one.ready for one in heard.answers)

    async def longest_queue_s(self) -> float:
        """`longest_queue_s` of at most FRESH_S ago; however many ask for it, the engines are asked once."""
        async with self._asking:
            if time.monotonic() >= self._stale_at_s:
                heard = await self.heard()
                self._longest_s = longest_queue_s({model: one.answers for model, one in heard.items()})
                self._stale_at_s = time.monotonic() + FRESH_S
            return self._longest_s


def longest_queue_s(figures: Figures) -> float:
    """Seconds, estimated, until every model has done what it has now: its replicas share what comes to it."""
    return max(
        (fmean(one.values["queued_s"] for one in replicas) for replicas in figures.values() if replicas), default=0.0
    )
