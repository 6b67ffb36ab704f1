"""What a process that decodes and encodes pictures counts."""

from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from serve.metrics import table
from serve.metrics.exposition import ProcessFigures, figures_of
from serve.metrics.instruments import counter, gauge


class CodecCounts:
    """threads: that do the work."""

    def __init__(self, threads: int) -> None:
        self._registry = CollectorRegistry()
        gauge(table.CODEC_THREADS, self._registry).set(threads)
        self._tasks = gauge(table.CODEC_TASKS, self._registry)
        self._stored = counter(table.STORED, self._registry)
        self._failures = counter(table.STORE_FAILURES, self._registry)

    def watch(self, task: Future[Any]) -> None:
        """A piece of work that waits, or runs, until it has ended."""
        self._tasks.inc()
        task.add_done_callback(lambda _: self._tasks.dec())

    @contextmanager
    def storing(self) -> Generator[None]:
        """Open while one image is stored."""
        with self._failures.count_exceptions():
            yield
        self._stored.inc()

    def figures(self, replica: str) -> ProcessFigures:
        return figures_of(replica, self._registry)
