"""What `/openapi.json` says beyond what the routes' types do: every body, header, event and error, to the letter.

FastAPI itself would round the bounds of integers to floats, drop what is null, and tell of errors that it never makes.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from serve import errors
from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.deployments.runbook import KEY_HEADER
from serve.deployments.streams import PROGRESS_HEADER
from serve.errors import EditError
from serve.schema import (
    ERROR_EVENT,
    CompletedEvent,
    EditResponse,
    ErrorBody,
    PartialImageEvent,
    ProgressEvent,
    form_schema,
    request_schema,
)

EDITS_ROUTE = "/v1/images/edits"

Document = dict[str, Any]
Answers = dict[int | str, dict[str, Any]]

_KEY = "key"
_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EditError)]
_PICTURES = "image/png, application/octet-stream"
"""What its sender calls a picture of a form; the file itself says what it is."""

EDIT_BODY: Document = {
    "required": True,
    "content": {
        "application/json": {"schema": request_schema()},
        "multipart/form-data": {
            "schema": form_schema(),
            "encoding": {name: {"contentType": _PICTURES} for name in ("image", "image[]", "mask")},
        },
    },
}


def _header(description: str, *, required: bool = False, **schema: object) -> Document:
    return {"description": description, "required": required, "schema": schema}


def _parameter(name: str, place: str, description: str, *, required: bool = False, **schema: object) -> Document:
    return {"name": name, "in": place, **_header(description, required=required, **schema)}


_TIME_LIMIT = (
    "Seconds that the edit may take; the shortest of what these headers and the server's configuration allow counts. "
    "An edit that cannot end in its time is a 429 as soon as that is clear, one that has not ended is a 408."
)
EDIT_HEADERS: list[Document] = [
    *(_parameter(name, "header", _TIME_LIMIT, type="number", exclusiveMinimum=0) for name in TIME_LIMIT_HEADERS),
    _parameter(
        KEY_HEADER,
        "header",
        "The same key gets the same answer, from one run; printable ASCII.",
        type="string",
        minLength=1,
        maxLength=255,
        pattern="^[!-~]([ -~]*[!-~])?$",
    ),
    _parameter(PROGRESS_HEADER, "header", "Whether a stream tells of every step as well.", type="boolean"),
]
FILE_QUERY: list[Document] = [
    _parameter("expires", "query", "As the link says it.", required=True, type="string"),
    _parameter("signature", "query", "As the link says it.", required=True, type="string"),
]

_OF_THE_KEY = {
    "limit": "What the API key may spend a minute; only where it has a limit.",
    "remaining": "What is left of it.",
    "reset": "When all of it is there again, as `1m12s`.",
}
_REQUEST_ID: Document = {
    "x-request-id": _header("The caller's, if it sent one.", required=True, type="string", minLength=1)
}
_LIMITS: Document = {
    f"x-ratelimit-{what}-{of}": _header(_OF_THE_KEY[what], type="string")
    for of in ("requests", "images")
    for what in _OF_THE_KEY
}
_HEADERS: Document = {
    **_LIMITS,
    "x-queue-position": _header(
        "Its place in the queue of its model when it came: the next to be begun is 1; 0: it ran at once.",
        type="integer",
        minimum=0,
    ),
    "x-queue-seconds": _header(
        "Seconds until the end of the edit as they were estimated then.", type="number", minimum=0
    ),
    "idempotent-replayed": _header(
        "`true` where the answer was made for an earlier request of the same key.", type="string", const="true"
    ),
    "server-timing": _header("Milliseconds of each stage: queue, decode, encode, denoise, vae, png.", type="string"),
}
_RETRY_AFTER = "Seconds after which a retry may succeed, from the work that is queued."
_SHOULD_RETRY: Document = {
    "x-should-retry": _header("Whether a retry can help.", required=True, type="string", enum=["true", "false"])
}
_ERROR_HEADERS: Mapping[int, Document] = {
    401: {"www-authenticate": _header("How to come in.", required=True, type="string", const="Bearer")},
    408: _SHOULD_RETRY,
    409: _SHOULD_RETRY,
    429: {**_SHOULD_RETRY, "retry-after": _header(_RETRY_AFTER, required=True, type="integer", minimum=1)},
    500: _SHOULD_RETRY,
    503: {**_SHOULD_RETRY, "retry-after": _header(_RETRY_AFTER, type="integer", minimum=1)},
}


def refusals(*statuses: int, headers: Document | None = None) -> Answers:
    """Of each status: the types and codes that its errors have, and the headers that they come with, beside these."""
    return {status: _refusal(status, headers or {}) for status in statuses}


def _refusal(status: int, more: Document) -> Document:
    kinds = [kind for kind in _ERRORS if kind.status == status]
    told = {
        "type": {"enum": sorted({kind.type for kind in kinds})},
        "code": {"enum": sorted({kind.default_code for kind in kinds})},
    }
    narrowed = {"properties": {"error": {"properties": told}}}
    headers = {**_REQUEST_ID, **_ERROR_HEADERS.get(status, {}), **more}
    return {"model": ErrorBody, "headers": headers, "content": {"application/json": {"schema": narrowed}}}


ANYWHERE = refusals(408, 429, 500, 503)
"""What every route may answer, if only because the server is starting, draining or full."""


def _event(name: str, data: Document) -> Document:
    """One event as it is parsed: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    payload = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    properties = {"event": {"const": name}, "data": payload}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _picture_event(kind: type[BaseModel]) -> Document:
    """What it refers to is among the components, since a plain answer has it too."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schema.pop("$defs", None)
    return _event(kind.model_fields["type"].default, schema)


_EVENTS: Document = {
    "description": "Where `stream` is true. The schema is that of each event: `image_edit.partial_image` for each "
    "preview, `image_edit.progress` for each step where the header `x-progress` is true, one `image_edit.completed` an "
    "image, or `error`; comments in between keep the connection alive.",
    "oneOf": [
        *(_picture_event(kind) for kind in (PartialImageEvent, ProgressEvent, CompletedEvent)),
        _event(ERROR_EVENT, {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}),
    ],
}

EDIT_ANSWERS: Answers = {
    **refusals(401),
    **refusals(400, 403, 404, 408, 409, 413, 415, 429, 500, 503, headers=_LIMITS),
    200: {
        "model": EditResponse,
        "headers": {**_REQUEST_ID, **_HEADERS},
        "content": {"text/event-stream": {"schema": _EVENTS}},
        "links": {
            "model": {
                "operationId": "model",
                "parameters": {"name": "$response.body#/model"},
                "description": "The model that drew it.",
            },
            "file": {
                "operationId": "file",
                "description": "With `response_format` `url`: each `data[].url` as it stands.",
            },
        },
    },
}
MODELS_ANSWERS: Answers = {
    **refusals(401),
    200: {
        "headers": _REQUEST_ID,
        "links": {"model": {"operationId": "model", "parameters": {"name": "$response.body#/data/0/id"}}},
    },
}
MODEL_ANSWERS: Answers = {**refusals(401, 403, 404), 200: {"headers": _REQUEST_ID}}
FILE_ANSWERS: Answers = {
    **refusals(403, 404),
    200: {
        "headers": {
            **_REQUEST_ID,
            "cache-control": _header("For as long as the link works.", required=True, type="string"),
        },
        "content": {
            f"image/{name}": {"schema": {"type": "string", "format": "binary"}} for name in ("png", "jpeg", "webp")
        },
    },
}
METRICS_ANSWERS: Answers = {
    200: {"headers": _REQUEST_ID, "content": {"text/plain": {"schema": {"type": "string"}}}},
}
LIFE_ANSWERS: Answers = {200: {"headers": _REQUEST_ID}}


def described(api: FastAPI, *, prefix: str, needs_key: bool) -> Document:
    """The whole document. prefix: the path under which the server is reached; needs_key: whether it has API keys."""
    document = deepcopy(api.openapi())
    document["paths"][EDITS_ROUTE]["post"]["requestBody"] = EDIT_BODY
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    for operation in operations:
        operation["responses"].pop("422", None)  # FastAPI's own, of parameters that it checks: none here is
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    if prefix:
        document["servers"] = [{"url": prefix}]
    if needs_key:
        document["components"]["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
        for operation in operations:
            if "401" in operation["responses"]:
                operation["security"] = [{_KEY: []}]
    return document
