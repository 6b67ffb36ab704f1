"""Least recently used values, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteLRU(Generic[Value]):
    """Values by content. Beyond `max_bytes` the least recently used go; a value larger than that is never kept.

    For one thread; the counters may be read from any. Values are shared, so nobody may change one.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        """Without counting as a use."""
        return key in self._entries

    def get(self, key: Hashable) -> Value | None:
        """The value of that key; None, and a miss, where it is not kept."""
        if key not in self._entries:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Hashable, value: Value, size_bytes: int) -> None:
        self._forget(key)
        if size_bytes > self._max_bytes:
            return
        while self.used_bytes + size_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))
        self._entries[key] = (value, size_bytes)
        self.used_bytes += size_bytes

    def _forget(self, key: Hashable) -> None:
        _, freed = self._entries.pop(key, (None, 0))
        self.used_bytes -= freed
