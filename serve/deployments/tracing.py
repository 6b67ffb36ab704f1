"""The way of a request through the deployments as an OpenTelemetry trace, where the OTEL_* variables name a collector.

What a span's parent is travels as a W3C carrier in what the deployments hand each other; it is empty for a request that
is not traced, and then nothing is done. Each process sends its own spans, from a thread of its own.
"""

import asyncio
import os
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from ray import serve as ray_serve
from starlette.requests import Request

from serve.deployments.logs import follow
from serve.engine.trail import Period, Trail
from serve.errors import EditError
from serve.prepare import Origin
from serve.settings import sends_traces

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor

SERVICE = "retouch"
FLUSH_S = 3.0
"""For what is left to send when the process ends; a collector that is away holds up nobody for longer."""

LEFT = "client_left"
INTERNAL = "internal_error"
_ERROR = "error.type"
_W3C = TraceContextTextMapPropagator()

Carrier = Mapping[str, str]
Value = str | int | float | bool


class Tracing:
    """Of one replica, which its spans are told to come from.

    The provider is not made OpenTelemetry's global one: that is Ray Serve's, where its own tracing is on.
    Raises ConfigurationError.
    """

    def __init__(self) -> None:
        self._processor: SpanProcessor | None = None
        self._tracer: Tracer | None = None
        if sends_traces(os.environ):
            replica = ray_serve.get_replica_context().replica_id
            self._processor, self._tracer = _started(replica.deployment_id.name, replica.unique_id)

    def request(self, request: Request, request_id: str, route: str) -> Span:
        """The span of a whole request, a child of the caller's. Whoever has it ends it."""
        if self._tracer is None:
            return INVALID_SPAN
        attributes: dict[str, Value] = {
            "http.request.method": request.method,
            "http.route": route,
            "url.path": request.url.path,
            "url.scheme": request.url.scheme,
            "retouch.request_id": request_id,
        }
        parent = _W3C.extract(request.headers, Context())
        return self._tracer.start_span(f"{request.method} {route}", parent, SpanKind.SERVER, attributes)

    @contextmanager
    def span(self, name: str, within: Carrier, **attributes: Value) -> Generator[Span]:
        """Of work for a request. It ends with the context, and fails with what that raises."""
        if self._tracer is None or not within:
            yield INVALID_SPAN
            return
        told = {f"retouch.{name}": value for name, value in attributes.items()}
        span = self._tracer.start_span(name, _W3C.extract(within, Context()), attributes=told)
        try:
            yield span
        except BaseException as error:
            failed(span, error)
            raise
        finally:
            span.end()

    def stages(self, edit: Span, trail: Trail) -> None:
        """Of an edit that has ended, however it did: a span for each stage that it came to."""
        if self._tracer is None or trail.submitted_s is None:
            return
        wall_ns = time.time_ns() - time.monotonic_ns()
        within = set_span_in_context(edit, Context())
        for name, period in _stages(trail, time.monotonic()).items():
            span = self._tracer.start_span(name, within, start_time=_at(wall_ns, period[0]))
            if name == "denoise":
                _add_steps(span, trail, wall_ns)
            span.end(_at(wall_ns, period[1]))

    async def close(self) -> None:
        """Send what is left, as far as that goes in a moment."""
        if self._processor is not None:
            sending = threading.Thread(target=self._processor.shutdown, name="last-spans", daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, FLUSH_S)


def carrier(span: Span) -> Carrier:
    """For those who work for the request elsewhere; empty where it is not traced."""
    carried: dict[str, str] = {}
    if span.is_recording():
        _W3C.inject(carried, set_span_in_context(span, Context()))
    return carried


def trace_id(carried: Carrier) -> str:
    """Empty where the request is not traced."""
    return carried["traceparent"].split("-")[1] if carried else ""


def work_for(origin: Origin) -> None:
    """The log tells what the current task says from now on as of that request."""
    follow(origin.request_id, trace_id(origin.trace), origin.principal.name)


def failed(span: Span, error: BaseException) -> None:
    """Never with the message, which may quote what the caller sent. A refusal is no fault."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        left(span)
        return
    code, status = (error.code, error.status) if isinstance(error, EditError) else (INTERNAL, 500)
    span.set_attribute(_ERROR, code)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR, code))


def left(span: Span) -> None:
    """The client did, before the end. That is no fault."""
    span.set_attribute(_ERROR, LEFT)


def _started(deployment: str, replica: str) -> "tuple[SpanProcessor, Tracer]":
    """What is sent whereto, how much of it and how much waits, the libraries read in the OTEL_* variables."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # Where none are sent, it costs nothing.
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # As above.
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # As above.

    processor = BatchSpanProcessor(OTLPSpanExporter())
    # Ray ends processes without Python's exit hooks, so that `close` has to do it.
    provider = TracerProvider(resource=_resource(deployment, replica), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return processor, provider.get_tracer(SERVICE)


def _resource(deployment: str, replica: str) -> "Resource":
    """A service.name of the variables stands above ours."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # As above.

    resource = Resource.create()
    named = not str(resource.attributes["service.name"]).startswith("unknown_service")
    ours = {"service.instance.id": replica, "retouch.deployment": deployment}
    return resource.merge(Resource({**ours, **({} if named else {"service.name": SERVICE})}))


def _stages(trail: Trail, now_s: float) -> dict[str, Period]:
    assert trail.submitted_s is not None
    begun = trail.encoded or trail.denoised or (now_s, now_s)
    stages = {"encode": trail.encoded, "denoise": trail.denoised, "vae": trail.decoded}
    return {"queue": (trail.submitted_s, begun[0]), **{name: period for name, period in stages.items() if period}}


def _add_steps(span: Span, trail: Trail, wall_ns: int) -> None:
    for step in trail.steps:
        span.add_event("step", {"rows": step.rows, "batch": step.batch}, _at(wall_ns, step.period[1]))
    if trail.steps_left_out:
        span.set_attribute("retouch.steps_left_out", trail.steps_left_out)


def _at(wall_ns: int, monotonic_s: float) -> int:
    return wall_ns + int(monotonic_s * 1e9)
