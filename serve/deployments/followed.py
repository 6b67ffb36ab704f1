"""One HTTP request as the log and its trace tell of it: a line at its end, and the span at the top."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.requests import Request

from serve.deployments.logs import say
from serve.deployments.tracing import LEFT, failed, left
from serve.errors import EditError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Followed:
    """request_id: the answer's `x-request-id`. span: of the request, where it is traced.

    Its line tells what was known of it, and how it ended. One that ends well and of which nothing is known has none.
    """

    request_id: str
    path: str
    span: Span = INVALID_SPAN
    _started_s: float = field(default_factory=time.monotonic)
    _known: dict[str, str | float] = field(default_factory=dict[str, str | float])
    _error: EditError | None = None

    def know(self, **fields: str | float | bool) -> None:
        """What both tell of it: nothing that a caller sent."""
        self._known |= fields
        self.span.set_attributes({f"retouch.{name}": value for name, value in fields.items()})

    def note(self, fields: Mapping[str, str | float]) -> None:
        """What its line alone tells."""
        self._known |= fields

    def refused(self, error: EditError) -> None:
        """A stream, too, whose answer has begun."""
        self._error = error

    def end(self, status: int | None, *, whole: bool) -> None:
        """status: that was sent, if any. whole: whether the answer was sent to its end."""
        took_s = round(time.monotonic() - self._started_s, 4)
        if status is not None:
            self.span.set_attribute("http.response.status_code", status)
        if self._error is not None:
            failed(self.span, self._error)
            ended = {"status": self._error.status, "code": self._error.code, "took_s": took_s}
            say(logger, "refused", **ended, **self._known, why=self._why(self._error))
        elif not whole:
            left(self.span)
            say(logger, LEFT, took_s=took_s, **self._known)
        elif self._known:
            say(logger, "answered", status=200, took_s=took_s, **self._known)
        self.span.end()

    def _why(self, error: EditError) -> str:
        """Both quote what the caller sent: as JSON they stay on their line. No prompt comes into a log."""
        return json.dumps([self.path, "prompt" if error.param == "prompt" else error.message])


def followed(request: Request) -> Followed:
    """What the outermost layer has begun for it."""
    return request.state.followed
