"""Waiting for what something else does by itself, which can only be observed by asking again."""

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], within_s: float = 60.0, every_s: float = 0.05) -> None:
    """Ask until it holds."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(every_s)
