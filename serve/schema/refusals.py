"""Why a request body is refused: pydantic's findings in our own error classes and in plain words.

Every sentence says what was found and what is allowed; what is allowed is read from the request's JSON schema, so that
the two cannot drift apart.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serve.errors import (
    InvalidJSON,
    InvalidRequest,
    InvalidType,
    MissingParameter,
    TooManyImages,
    UnknownParameter,
    UnsupportedParameter,
)

MOST_FAULTS = 1000
"""A hostile body can hold millions of unknown keys; beyond this number they are not looked at one by one."""

SHOWN_CHARACTERS = 40
"""Of a value or a name that the caller sent."""

Schema = Mapping[str, Any]
Path = tuple[int | str, ...]

_CLASSES: dict[str, type[InvalidRequest]] = {
    "json_invalid": InvalidJSON,
    "extra_forbidden": UnknownParameter,
    "missing": MissingParameter,
    "too_long": TooManyImages,
    "unsupported": UnsupportedParameter,
    **dict.fromkeys(("string_type", "int_type", "float_type", "bool_type", "list_type", "model_type"), InvalidType),
    **dict.fromkeys(("int_parsing", "int_from_float", "float_parsing", "bool_parsing"), InvalidType),
}
"""By pydantic's name of the fault; every other one is an `invalid_value`."""

_WORDS = {
    "integer": "an integer from {minimum} to {maximum}",
    "number": "a number from {minimum} to {maximum}",
    "array": "an array of {minItems} to {maxItems} images",
    "boolean": "true or false",
    "string": "text",
    "long string": "text of {minLength} to {maxLength:,} characters",
    "name": "text of at least {minLength} character",
    "short string": "text of at most {maxLength} characters",
}
"""What a field may hold, filled in from its JSON schema."""

_BOUNDED_TEXTS = {(True, True): "long string", (True, False): "name", (False, True): "short string"}
"""By whether a shortest and a longest length are given."""

_HONOURED_IN_PART = ("quality", "background", "moderation")
"""OpenAI's fields that stock clients send: their other values ask for what no model here does."""

_FIRST = (InvalidJSON, UnknownParameter, MissingParameter, InvalidType)
"""Which fault is told when there are several; then all others; among equals the earlier field of the schema."""


def refusal(error: ValidationError, schema: Schema) -> InvalidRequest:
    """The one error that the caller gets. schema: of the request, as `request_schema` answers it."""
    if error.error_count() > MOST_FAULTS:
        return UnknownParameter(f"the body has {error.error_count():,} faults, nearly all of them unknown fields")
    faults = [_translate(details, schema) for details in error.errors(include_url=False) if _is_meant(details)]
    return min(faults, key=_rank)


def value_rule(rule: Schema) -> Schema:
    """The part of a field's schema that says what its value is, without the null that most fields accept."""
    return next(option for option in rule.get("anyOf", (rule,)) if option.get("type") != "null")


def _rank(fault: InvalidRequest) -> int:
    return _FIRST.index(type(fault)) if type(fault) in _FIRST else len(_FIRST)


def _translate(details: ErrorDetails, schema: Schema) -> InvalidRequest:
    kind, path, context = details["type"], _path(details), details.get("ctx", {})
    if kind == "json_invalid":
        return InvalidJSON(f"the body is not JSON: {context['error']}")
    if not path and "field" not in context:
        return InvalidType(f"the body is {_found(details['input'])}; a JSON object is needed")
    if "field" in context:
        return _CLASSES.get(kind, InvalidRequest)(context["message"], param=context["field"])
    if kind == "extra_forbidden":
        return _unknown(path, schema)
    return _refused_value(kind, path, details["input"], schema)


def _refused_value(kind: str, path: Path, found: object, schema: Schema) -> InvalidRequest:
    param, allowed = _param(path), _allowed(path, schema)
    if kind == "missing" or (found is None and isinstance(path[-1], str)):
        return MissingParameter(f"{param} is missing; it must be {allowed}", param=param)
    refused = _CLASSES.get(kind, InvalidRequest)
    if kind == "literal_error":
        refused = UnsupportedParameter if param in _HONOURED_IN_PART else InvalidRequest
        refused = refused if isinstance(found, str) else InvalidType
    return refused(f"{param} is {_found(found)}; it must be {allowed}", param=param)


def _unknown(path: Path, schema: Schema) -> UnknownParameter:
    known = list(_object_at(path, schema)["properties"])
    name = _shortened(str(path[-1]))
    param = _param((*path[:-1], name))
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return UnknownParameter(f"{param} is unknown; {hint}", param=param)


def _is_meant(details: ErrorDetails) -> bool:
    """A picture fails once as a string and once as an object; only the form that the caller chose matters."""
    place = details["loc"]
    if len(place) != 3 or place[0] != "images":
        return True
    return place[2] == "str" and not isinstance(details["input"], dict)


def _path(details: ErrorDetails) -> Path:
    """Without the name of the form that pydantic puts behind a picture's index."""
    place = details["loc"]
    return place[:2] + place[3:] if place[:1] == ("images",) else place


def _param(path: Path) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _object_at(path: Path, schema: Schema) -> Schema:
    return schema if len(path) == 1 else schema["properties"]["images"]["items"]["anyOf"][1]


def _allowed(path: Path, schema: Schema) -> str:
    if isinstance(path[-1], int):
        return 'base64 text or {"image_url": "data:image/png;base64,..."}'
    return _in_words(value_rule(_object_at(path, schema)["properties"][path[-1]]))


def _in_words(rule: Schema) -> str:
    if "const" in rule:
        return json.dumps(rule["const"])
    if "enum" in rule:
        return "one of " + ", ".join(json.dumps(value) for value in rule["enum"])
    if "pattern" in rule:
        return "a data: URL, or an https link where the server fetches them"
    bounds = ("minLength" in rule, "maxLength" in rule)
    kind: str = _BOUNDED_TEXTS.get(bounds) or rule["type"]
    return _WORDS[kind].format_map(rule)


def _found(value: object) -> str:
    match value:
        case str():
            length = f" ({len(value):,} characters)" if len(value) > SHOWN_CHARACTERS else ""
            return f"the string {json.dumps(_shortened(value), ensure_ascii=False)}{length}"
        case bool() | None:
            return json.dumps(value)
        case int():
            return f"the integer {_shortened(str(value))}"
        case float():
            return f"the number {json.dumps(value)}"
        case list():
            return f"an array of {len(value):,} items"
        case _:
            return "an object"


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
