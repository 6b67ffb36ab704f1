"""Where a failure stops: at the rows that it belongs to, or at the engine."""

from collections.abc import Callable
from types import TracebackType

from serve.backends.base import device_fault
from serve.errors import BackendLost


class contained:  # Entered for every row at every step, where a generator would cost five times as much.
    """What goes wrong inside is handed to `fail` and ends there. Raises BackendLost, after which no row can succeed.

    Families work on tensors of the device beside their components, so a fault of the device may show in either.
    """

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, BackendLost):
            return False
        fault = device_fault(error, "the model")
        if isinstance(fault, BackendLost):
            raise fault from error
        if fault is not None:
            fault.__cause__ = error
        self._fail(fault or error)
        return True
