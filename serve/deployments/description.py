"""What `/openapi.json` says beyond what the routes' types do: the edits' body to the letter, and every header."""

from typing import Any

from pydantic import BaseModel

from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.deployments.runbook import KEY_HEADER
from serve.deployments.streams import PROGRESS_HEADER
from serve.schema import (
    CompletedEvent,
    EditResponse,
    ErrorBody,
    PartialImageEvent,
    ProgressEvent,
    form_schema,
    request_schema,
)

ERROR_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503)

STREAM_EVENTS = (PartialImageEvent, ProgressEvent, CompletedEvent)

EDIT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": request_schema()},
        "multipart/form-data": {"schema": form_schema()},
    },
}

_TIME_LIMIT = (
    "Seconds that the edit may take; the shortest of what these headers and the server's configuration allow counts. "
    "An edit that cannot end in its time is a 429 as soon as that is clear, one that has not ended is a 408."
)


def _header(name: str, description: str, **schema: object) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


EDIT_HEADERS: list[dict[str, Any]] = [
    *(_header(name, _TIME_LIMIT, type="number", exclusiveMinimum=0) for name in TIME_LIMIT_HEADERS),
    _header(KEY_HEADER, "The same key gets the same answer, from one run.", type="string", minLength=1, maxLength=255),
    _header(PROGRESS_HEADER, "Whether a stream tells of every step as well.", type="boolean"),
]

_OF_THE_KEY = {
    "limit": "What the API key may spend a minute; only where it has a limit.",
    "remaining": "What is left of it.",
    "reset": "When all of it is there again, as `1m12s`.",
}
_HEADERS: dict[str, Any] = {
    "x-queue-position": {
        "description": "Edits of the model that were to be begun before this one when it was queued.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "x-queue-seconds": {
        "description": "Seconds until the end of the edit as they were estimated then.",
        "schema": {"type": "number", "minimum": 0},
    },
    **{
        f"x-ratelimit-{what}-{of}": {"description": _OF_THE_KEY[what], "schema": {"type": "string"}}
        for of in ("requests", "images")
        for what in _OF_THE_KEY
    },
    "idempotent-replayed": {
        "description": "`true` where the answer was made for an earlier request of the same key.",
        "schema": {"type": "string"},
    },
    "server-timing": {
        "description": "Milliseconds of each stage: queue, decode, encode, denoise, vae, png.",
        "schema": {"type": "string"},
    },
}
_RETRY_AFTER: dict[str, Any] = {
    "retry-after": {
        "description": "Seconds after which a retry may succeed, from the work that is queued.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def _event(kind: type[BaseModel]) -> dict[str, Any]:
    """What it refers to is among the components, since a plain answer has it too."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schema.pop("$defs", None)
    return schema


_EVENTS: dict[str, Any] = {
    "type": "string",
    "description": "Where `stream` is true: `image_edit.partial_image` for each preview, `image_edit.progress` for "
    "each step where the header `x-progress` is true, one `image_edit.completed` an image, or `error`; comments in "
    "between keep the connection alive. `x-events` has the schema of each one's data.",
    "x-events": {kind.model_fields["type"].default: _event(kind) for kind in STREAM_EVENTS},
}

EDIT_ANSWERS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody} for status in ERROR_STATUSES},
    200: {"model": EditResponse, "headers": _HEADERS, "content": {"text/event-stream": {"schema": _EVENTS}}},
    429: {"model": ErrorBody, "headers": _RETRY_AFTER},
}

METRICS_ANSWER: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
