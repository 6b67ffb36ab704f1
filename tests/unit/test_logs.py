"""Which request a line of the log is of, whatever Ray Serve does to its handlers."""

import logging
from collections.abc import Generator
from contextvars import copy_context

import pytest

from serve.deployments.logs import PACKAGE, adopt_serve_logging, follow, say

RAYS = "ray.serve"


class Kept(logging.Handler):
    """Keeps lines, as Ray's own filter would have them: of another request."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.addFilter(_of_another)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((vars(record)["request_id"], record.getMessage()))


def _of_another(record: logging.LogRecord) -> bool:
    vars(record)["request_id"] = "another"
    return True


@pytest.fixture
def logger() -> Generator[logging.Logger]:
    loggers = [logging.getLogger(name) for name in (RAYS, PACKAGE, "opentelemetry")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    adopt_serve_logging("INFO")
    yield logging.getLogger(f"{PACKAGE}.deployments.codec")
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def _say(logger: logging.Logger, request_id: str, event: str) -> None:
    def work() -> None:
        follow(request_id)
        say(logger, event)

    copy_context().run(work)


def test_lines_name_their_request_also_after_ray_serve_has_replaced_its_handlers(logger: logging.Logger) -> None:
    first, second = Kept(), Kept()
    for handler, request_id in ((first, "one"), (second, "two")):
        logging.getLogger(RAYS).handlers = [handler]
        _say(logger, request_id, "drawn")
        _say(logger, request_id, "finished")
    assert first.lines == [("one", "drawn "), ("one", "finished ")]
    assert second.lines == [("two", "drawn "), ("two", "finished ")]


def test_a_handler_hears_what_its_level_lets_through(logger: logging.Logger) -> None:
    logging.getLogger(RAYS).handlers = [errors := Kept(logging.ERROR), everything := Kept()]
    logger.warning("the store was not swept")
    assert (errors.lines, len(everything.lines)) == ([], 1)


def test_rays_own_lines_stay_as_they_are(logger: logging.Logger) -> None:
    logging.getLogger(RAYS).handlers = [handler := Kept()]
    _say(logger, "one", "drawn")
    logging.getLogger(RAYS).error("of Ray")
    assert handler.lines == [("one", "drawn "), ("another", "of Ray")]
