"""Least recently used values, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
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

    def fetch(self, key: Hashable, compute: Callable[[], Value], size_bytes: Callable[[Value], int]) -> Value:
        """The value of that key, computed where it is not kept. What `compute` raises passes through."""
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key][0]
        self.misses += 1
        value = compute()
        self._keep(key, value, size_bytes(value))
        return value

    def _keep(self, key: Hashable, value: Value, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            return
        while self.used_bytes + size_bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.used_bytes -= freed
        self._entries[key] = (value, size_bytes)
        self.used_bytes += size_bytes
