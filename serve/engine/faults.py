"""Where a failure stops: at the rows that it belongs to, or at the engine."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from serve.backends.base import device_faults
from serve.errors import BackendLost


@contextmanager
def contained(fail: Callable[[Exception], None]) -> Generator[None]:
    """What goes wrong inside is handed to `fail` and ends there. Raises BackendLost, after which no row can succeed.

    Families work on tensors of the device beside their components, so a fault of the device may show in either.
    """
    try:
        with device_faults("the model"):
            yield
    except BackendLost:
        raise
    except Exception as error:  # noqa: BLE001 - `fail` makes it the end of its rows, which is logged
        fail(error)
