"""Where a test stops another thread, looks at it, and lets it go on."""

import queue
import threading

TIMEOUT_S = 60.0


class Gate:
    """Stops a thread each time it arrives, until the test lets it on."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        self._permits = threading.Semaphore(0)
        self._opened = threading.Event()

    def arrive(self, names: tuple[str, ...]) -> None:
        self._arrived.put(names)
        if not self._opened.is_set():
            assert self._permits.acquire(timeout=TIMEOUT_S)

    def wait(self) -> tuple[str, ...]:
        """Names of the rows of the call that has arrived and waits."""
        return self._arrived.get(timeout=TIMEOUT_S)

    def release(self) -> None:
        self._permits.release()

    def step(self) -> tuple[str, ...]:
        """Let the call that waits go on, and wait for the next."""
        self.release()
        return self.wait()

    def open(self) -> None:
        """Stop nobody from now on."""
        self._opened.set()
        self._permits.release()
