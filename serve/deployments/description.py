"""What `/openapi.json` says beyond what the routes' types do: the edits' body to the letter, and every header."""

from typing import Any

from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.schema import EditResponse, ErrorBody, request_schema

ERROR_STATUSES = (400, 404, 405, 408, 413, 415, 429, 500, 503)

EDIT_BODY: dict[str, Any] = {"required": True, "content": {"application/json": {"schema": request_schema()}}}

EDIT_HEADERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": "Seconds that the edit may take; the shortest of what these headers and the server's "
        "configuration allow counts. An edit that cannot end in its time is a 429 as soon as that is clear, one that "
        "has not ended is a 408.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }
    for name in TIME_LIMIT_HEADERS
]

_PLACE: dict[str, Any] = {
    "x-queue-position": {
        "description": "Edits of the model that were to be begun before this one when it was queued.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "x-queue-seconds": {
        "description": "Seconds until the end of the edit as they were estimated then.",
        "schema": {"type": "number", "minimum": 0},
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

EDIT_ANSWERS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody} for status in ERROR_STATUSES},
    200: {"model": EditResponse, "headers": _PLACE},
    429: {"model": ErrorBody, "headers": _RETRY_AFTER},
}

METRICS_ANSWER: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}
