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
from serve.errors import EditError, InvalidType
from serve.metrics import CLIENT_CLOSED, OK, End, OpenRequest

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Followed:
    """request_id: the answer's `x-request-id`. span: of the request, where it is traced. counted: that of an edit.

    Its line tells what was known of it, and how it ended. One that ends well and of which nothing is known has none.
    """

    request_id: str
    path: str
    span: Span = INVALID_SPAN
    counted: OpenRequest | None = None
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

    def accepted(self, model: str, images: int) -> None:
        """It was found to be valid. model: an id, not an alias."""
        self.know(model=model, images=images)
        if self.counted:
            self.counted.accepted(model, images)

    def took(self, timings_ms: Mapping[str, float], *, replayed: bool = False) -> None:
        """What its stages took; replayed: when they were run for an earlier request."""
        self.note({f"{stage}_ms": round(spent, 1) for stage, spent in timings_ms.items()})
        if replayed:
            self.know(replayed=True)
        if self.counted:
            self.counted.took(timings_ms, replayed=replayed)

    def refused(self, error: EditError) -> None:
        """A stream, too, whose answer has begun."""
        self._error = error

    def end(self, status: int | None, *, whole: bool, received_bytes: int, sent_bytes: int) -> None:
        """status: that was sent, if any. whole: whether the answer was sent to its end; if not, its caller left."""
        if self.counted:
            self.counted.end(self._how(whole), received_bytes, sent_bytes)
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

    def _how(self, whole: bool) -> End:
        if self._error is not None:
            return self._error.status, self._error.code
        return OK if whole else CLIENT_CLOSED

    def _why(self, error: EditError) -> str:
        """Both quote what the caller sent: as JSON they stay on their line. No prompt comes into a log, nor a body that
        is no object, which may be one."""
        private = error.param == "prompt" or (isinstance(error, InvalidType) and error.param is None)
        return json.dumps([self.path, error.code if private else error.message])


def followed(request: Request) -> Followed:
    """What the outermost layer has begun for it."""
    return request.state.followed
