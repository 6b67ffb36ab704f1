"""An OpenTelemetry collector in a thread of the test: it takes spans by OTLP over HTTP, and keeps them."""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    name: str
    attributes: Values


@dataclass(frozen=True)
class Span:
    """ids: as hex; parent: empty where there is none. resource: of the process that sent it. failed: by its status."""

    trace_id: str
    id: str
    parent: str
    name: str
    kind: int
    started_ns: int
    ended_ns: int
    attributes: Values
    events: tuple[Event, ...]
    failed: bool
    resource: Values


@dataclass
class Collector:
    """endpoint: for OTEL_EXPORTER_OTLP_ENDPOINT."""

    endpoint: str
    bodies: list[bytes] = field(default_factory=list[bytes])
    _spans: list[Span] = field(default_factory=list[Span])

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            self._spans += [_span(one, resource) for scope in group.scope_spans for one in scope.spans]

    def trace(self, trace_id: str) -> list[Span]:
        """What has come of it."""
        return [span for span in self._spans if span.trace_id == trace_id]

    def spans(self, **attributes: Any) -> list[Span]:
        """Those with these attributes, `_` for the dot after `retouch`."""
        wanted = {f"retouch.{name}": value for name, value in attributes.items()}.items()
        return [span for span in self._spans if wanted <= span.attributes.items()]


@contextmanager
def collecting() -> Generator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _span(sent: Sent, resource: Values) -> Span:
    return Span(
        trace_id=sent.trace_id.hex(),
        id=sent.span_id.hex(),
        parent=sent.parent_span_id.hex(),
        name=sent.name,
        kind=sent.kind,
        started_ns=sent.start_time_unix_nano,
        ended_ns=sent.end_time_unix_nano,
        attributes=_values(sent.attributes),
        events=tuple(Event(event.name, _values(event.attributes)) for event in sent.events),
        failed=sent.status.code == Status.STATUS_CODE_ERROR,
        resource=resource,
    )


def _values(pairs: "list[KeyValue] | Any") -> Values:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
