"""Whether traces are sent: OpenTelemetry's own variables decide, as in any program that uses it."""

from collections.abc import Mapping

from serve.errors import ConfigurationError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_EXPORTER = "OTEL_TRACES_EXPORTER"


def sends_traces(environment: Mapping[str, str]) -> bool:
    """Whether an endpoint is named, and sending not switched off. An empty variable is none.

    Raises ConfigurationError: they ask for what this server cannot do.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    name, endpoint = _first(_ENDPOINTS, environment)
    exporter = environment.get(_EXPORTER, "").strip()
    if not endpoint or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        raise ConfigurationError(
            f"the variable {_EXPORTER} is {exporter!r}; traces are sent by otlp, or not at all (none)"
        )
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(f"the variable {name} must begin with http:// or https://")
    name, protocol = _first(_PROTOCOLS, environment)
    if protocol not in ("", _PROTOCOL):
        raise ConfigurationError(
            f"the variable {name} is {protocol!r}; traces are sent by {_PROTOCOL} alone, mostly to port 4318"
        )
    return True


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """The first of these variables that holds something, and what; empty where none does."""
    return next(((name, value) for name in names if (value := environment.get(name, "").strip())), ("", ""))
