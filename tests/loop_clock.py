"""The event loop's clock, which a test moves on instead of waiting."""

import asyncio

import pytest


class LoopClock:
    """Of the running loop."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._real = loop.time
        self._skipped_s = 0.0
        patch.setattr(loop, "time", lambda: self._real() + self._skipped_s)

    async def skip(self, seconds: float) -> None:
        """All that is due by then happens."""
        self._skipped_s += seconds
        for _ in range(5):
            await asyncio.sleep(0)
