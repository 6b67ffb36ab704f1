"""The Python API that `tensorrt` and `tensorrt_rtx` have in common: which of them is here, and what it says."""

import importlib
from contextlib import suppress
from typing import Any

from serve.errors import ConfigurationError

PACKAGES = ("tensorrt", "tensorrt_rtx")
"""The first that is installed is taken; a machine for one of the two has no use for the other."""
_NO_DRIVER = "cudaError 35"
"""TensorRT for RTX looks for a driver, tells that there is none as an error, and goes on without."""


def load_library() -> Any:
    """The module of whichever package is installed. Raises ConfigurationError."""
    for name in PACKAGES:
        with suppress(ImportError):
            return importlib.import_module(name)
    raise ConfigurationError(
        "neither tensorrt nor tensorrt_rtx is installed; pip install -e '.[tensorrt]' brings tensorrt_rtx, and "
        "data-centre GPUs need tensorrt"
    )


def identity(trt: Any) -> dict[str, str]:
    """What a plan must have been built with to be loaded, as a manifest tells it."""
    return {"library": trt.__name__, "version": trt.__version__}


def make_logger(trt: Any) -> Any:
    """A logger that keeps the first error, for one sentence: `told()` answers and forgets it. It must outlive every
    object that it is given to."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._error = ""

        def log(self, severity: Any, message: str) -> None:
            failed = severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            if failed and _NO_DRIVER not in message:
                self._error = self._error or message

        def told(self) -> str:
            error, self._error = self._error, ""
            return error or "it gives no reason"

    return Logger()
