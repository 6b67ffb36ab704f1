"""Without a collector, a request costs no span, and no process loads what would send one."""

import subprocess
import sys

import pytest
from opentelemetry.trace import INVALID_SPAN

from serve.deployments.tracing import Tracing, carrier, trace_id

CALLER = {"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}


def test_nothing_is_made_where_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with Tracing().span("edit", CALLER) as span:
        assert span is INVALID_SPAN
        assert carrier(span) == {}
        assert trace_id(carrier(span)) == ""


def test_what_sends_is_loaded_only_to_send() -> None:
    code = "import sys, serve.deployments.app; sys.exit('opentelemetry.exporter.otlp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
