"""What a process that speaks HTTP counts of requests for edits."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from serve.errors import BackendUnavailable, EditError, InternalError, Overloaded, RequestTimeout
from serve.metrics import table
from serve.metrics.exposition import ProcessFigures, figures_of
from serve.metrics.instruments import counter, gauge, histogram

UNKNOWN = "-"
"""The model of a request that was refused before it was known: what callers send is never a label."""

OK = (200, "ok")
CLIENT_CLOSED = (499, "client_closed")
"""As nginx calls it: nobody is there to be answered."""

EDITS, FILES = "edits", "files"
End = tuple[int, str]
"""HTTP status and error code."""


def end_of(error: type[EditError]) -> End:
    return error.status, error.default_code


FORESEEN = (OK, CLIENT_CLOSED, *map(end_of, (RequestTimeout, Overloaded, InternalError, BackendUnavailable)))
"""Told as 0 before they happen, or the first would not show as growth."""


class RequestCounts:
    """models: the ids of all."""

    def __init__(self, models: Iterable[str]) -> None:
        self._registry = CollectorRegistry()
        self.ended = counter(table.REQUESTS_ENDED, self._registry)
        self.seconds = histogram(table.REQUEST_SECONDS, self._registry)
        self.stages = histogram(table.STAGE_SECONDS, self._registry)
        self.images = counter(table.IMAGES, self._registry)
        self.replayed = counter(table.REPLAYED, self._registry)
        self.in_flight = gauge(table.IN_FLIGHT, self._registry)
        self.received = counter(table.RECEIVED, self._registry)
        self.sent = counter(table.SENT, self._registry)
        known = list(models)
        for model in (*known, UNKNOWN):
            for status, code in FORESEEN:
                self.ended.labels(model, str(status), code)
        for model in known:
            self.seconds.labels(model)
            self.images.labels(model)
            self.replayed.labels(model)
            for stage in table.STAGES:
                self.stages.labels(model, stage)
        for route in (EDITS, FILES):
            self.sent.labels(route)

    def begin(self) -> "OpenRequest":
        self.in_flight.inc()
        return OpenRequest(self)

    def file_sent(self, size_bytes: int) -> None:
        self.sent.labels(FILES).inc(size_bytes)

    def figures(self, replica: str) -> ProcessFigures:
        return figures_of(replica, self._registry)


@dataclass(slots=True)
class OpenRequest:
    """One request for edits, from `RequestCounts.begin` to its one `end`."""

    counts: RequestCounts
    model: str = UNKNOWN
    images: int = 0
    _began_s: float = field(default_factory=time.monotonic)
    _timings_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    _replayed: bool = False

    def accepted(self, model: str, images: int) -> None:
        """It was found to be valid. model: an id, not an alias."""
        self.model, self.images = model, images

    def took(self, timings_ms: Mapping[str, float], *, replayed: bool = False) -> None:
        """What its stages took; replayed: when they were run for an earlier request."""
        self._timings_ms, self._replayed = timings_ms, replayed

    def end(self, end: End, received_bytes: int, sent_bytes: int) -> None:
        counts, (status, code) = self.counts, end
        counts.in_flight.dec()
        counts.ended.labels(self.model, str(status), code).inc()
        counts.received.inc(received_bytes)
        counts.sent.labels(EDITS).inc(sent_bytes)
        if end == OK:
            self._succeed()

    def _succeed(self) -> None:
        self.counts.seconds.labels(self.model).observe(time.monotonic() - self._began_s)
        self.counts.images.labels(self.model).inc(self.images)
        if self._replayed:
            self.counts.replayed.labels(self.model).inc()
            return
        for stage, took_ms in self._timings_ms.items():
            self.counts.stages.labels(self.model, stage).observe(took_ms / 1000)
