"""How much more a folder may take: looked up now and then, added up in between."""

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

from serve.storage.base import StorageFull

MIB = 2**20
SHARES = 64
"""A process looks again once it has put this part of the limit."""


class Look(NamedTuple):
    """What a sweep found. total_bytes: of the files it left. next_release: seconds since the epoch at which the first
    of them may go; infinite where there is none."""

    removed: int
    total_bytes: int
    next_release: float


class Room:
    """Room for files in a folder that several processes share. Any thread may call.

    Between two looks a process adds up what it puts itself and knows nothing of what others put. It looks again after
    each 64th of `max_bytes` of its own: so every process can take the files past `max_bytes` by such a share and the
    few files that it is writing, not by more, and looking costs about 64 `stat` a put, however many files there are.
    While the folder is full, nobody looks before a file may go.

    look: removes what has expired and tells what is left. clock: seconds since the epoch.
    """

    def __init__(self, max_bytes: int, look: Callable[[], Look], clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Look | None = None
        self._put_since = 0

    def take(self, size: int) -> None:
        """Count a file of `size` bytes as there. Raises StorageFull when it has no room.

        A file that then cannot be written needs no giving back: it only brings the next look nearer.
        """
        with self._lock:
            last = self._last
            if last is None or self._outdated(last, size):
                last = self._look_again()
            if self._lacks(last, size):
                raise self._full(last)
            self._put_since += size

    def refresh(self) -> Look:
        with self._lock:
            return self._look_again()

    def _outdated(self, last: Look, size: int) -> bool:
        if self._put_since >= self._max_bytes // SHARES:
            return True
        return self._lacks(last, size) and (self._put_since > 0 or self._clock() >= last.next_release)

    def _lacks(self, last: Look, size: int) -> bool:
        return last.total_bytes + self._put_since + size > self._max_bytes

    def _look_again(self) -> Look:
        self._last = self._look()
        self._put_since = 0
        return self._last

    def _full(self, last: Look) -> StorageFull:
        used, limit = (f"{count / MIB:.1f} MiB" for count in (last.total_bytes, self._max_bytes))
        wait_s = max(0.0, last.next_release - self._clock())
        return StorageFull(
            f"the store of results is full ({used} of {limit}); try again later, or ask for b64_json",
            retry_after_s=wait_s if math.isfinite(wait_s) else None,
        )
