"""Our log lines go where Ray Serve's go, to the process' file there, and tell which request they are of.

A line of an event has fields. As text they are `name=value`; where Ray Serve writes JSON, keys of their own as well.
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar

PACKAGE = "serve"
_QUIET = {"opentelemetry": logging.ERROR}
"""Loggers of libraries, and from which level on they are heard."""

_request: ContextVar[Mapping[str, str]] = ContextVar("request")


def adopt_serve_logging(level: str) -> None:
    """Send the package's loggers to the handlers that Ray Serve has in this process."""
    for name, least in {PACKAGE: level, **_QUIET}.items():
        logger = logging.getLogger(name)
        logger.handlers = [_RAYS_HANDLERS]
        logger.setLevel(least)
        logger.propagate = False


def follow(request_id: str, trace_id: str = "", key: str = "") -> None:
    """The current task, and what it starts from now on, works for this request. key: the name of the caller's."""
    fields = {"request_id": request_id, "trace_id": trace_id, "key": key}
    _request.set({name: value for name, value in fields.items() if value})


def say(logger: logging.Logger, event: str, /, **fields: str | float) -> None:
    """A line of an event. fields: nothing that a caller sent, but as JSON."""
    told = " ".join(f"{name}={value}" for name, value in fields.items())
    logger.info("%s %s", event, told, extra=fields, stacklevel=2)


class _RaysHandlers(logging.Handler):
    """Whichever Ray Serve has at the time: it replaces them where its own configuration changes."""

    def emit(self, record: logging.LogRecord) -> None:
        for handler in logging.getLogger("ray.serve").handlers:
            # After Ray's own filter, which would name another request where work is done for several.
            handler.addFilter(_name_request)
            if record.levelno >= handler.level:
                handler.handle(record)


_RAYS_HANDLERS = _RaysHandlers()


def _name_request(record: logging.LogRecord) -> bool:
    """Of our own lines alone: what Ray starts in a request's context goes on after it."""
    if record.name.startswith(f"{PACKAGE}."):
        vars(record).update(_request.get({}))
    return True
