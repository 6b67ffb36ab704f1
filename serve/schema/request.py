"""What a client may ask for: the request, how a body becomes one, and the JSON schema that says so.

`parse` answers a complete `EditRequest` or raises an `InvalidRequest` that names the field, what was found and what is
allowed. A key that occurs twice in a JSON object counts with its last value, as in most JSON libraries. The texts of a
form are read leniently: `"7"` is an integer there, and nothing at all is null, as OpenAI's clients send it.
"""

import re
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, JsonValue, ValidationError, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUseDefault, core_schema

from serve.errors import InvalidJSON, InvalidRequest
from serve.schema.refusals import refusal
from serve.types import Form, OutputFormat, Picture, Priority

MAX_IMAGES = 10
MAX_PROMPT_CHARACTERS = 32_000
MAX_CALLER_CHARACTERS = 512
"""Of each of the fields that say who the caller works for: they come into a line of the log."""

LOSSLESS = 100
"""The `output_compression` that keeps every pixel: OpenAI's default, and the only one that a PNG can honour."""

MOST_SEPARATORS = 50_000
"""Of each of `,`, `[` and `{` in a body. A request needs a few dozen and a prompt of commas alone 32,000; 64 MiB of
empty arrays would take minutes and gigabytes to parse."""

SizeName = Literal["256x256", "512x512", "1024x1024", "auto"]
SIZES: tuple[SizeName, ...] = ("256x256", "512x512", "1024x1024", "auto")

_TINY_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgaGAAAAEEAIFw9selAAAAAElFTkSuQmCC"
_EXAMPLE: JsonValue = {"images": [_TINY_PNG], "prompt": "make the sky a warm sunset", "size": "512x512", "seed": 7}
_ONLY_IN_STREAMS: JsonValue = {
    "anyOf": [
        {
            "properties": {"stream": {"const": True}, "response_format": {"enum": ["b64_json", None]}},
            "required": ["stream"],
        },
        {"properties": {"stream": {"enum": [False, None]}, "partial_images": {"enum": [0, None]}}},
    ]
}
_PNG_IS_LOSSLESS: JsonValue = {
    "anyOf": [
        {"properties": {"output_format": {"enum": ["jpeg", "webp"]}}, "required": ["output_format"]},
        {"properties": {"output_compression": {"enum": [LOSSLESS, None]}}},
    ]
}
_SOMETHING = r"[^\s\u001c-\u001f\u0085\ufeff]"
"""More than white space, as Python and JavaScript each know it: their `\\s` differ in those that are added."""

_PROMPT_SAYS_SOMETHING: JsonValue = {"properties": {"prompt": {"pattern": _SOMETHING}}}

_T = TypeVar("_T")
_Text = Annotated[str, Field(json_schema_extra={"format": "png"})]
"""A picture as JSON holds it. The format is our own name, since a schema cannot say what is a picture."""


class _NullIsAbsent:
    """An explicit null takes the field's default; the JSON schema says that null is accepted."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            self._given_or_default, core_schema.nullable_schema(handler(source))
        )

    def _given_or_default(self, value: object) -> object:
        if value is None:
            raise PydanticUseDefault
        return value


class _StringOrObject:
    """A picture as a string, or as OpenAI's object around it; past the door it is the string."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        in_json = handler.generate_schema(_Text | ImageReference)
        return core_schema.no_info_after_validator_function(
            self._unwrapped, core_schema.json_or_python_schema(in_json, handler.generate_schema(Picture))
        )

    def _unwrapped(self, item: "Picture | ImageReference") -> Picture:
        return item.image_url if isinstance(item, ImageReference) else item


class _FileInForms:
    """Text in JSON; in a form also a file."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.json_or_python_schema(
            handler.generate_schema(_Text | None), handler.generate_schema(Picture | None)
        )


_Optional = Annotated[_T, _NullIsAbsent()]


class ImageReference(BaseModel):
    """A picture in the form of OpenAI's JSON clients."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image_url: Annotated[
        str,
        Field(
            pattern="^(data:|https://)",
            json_schema_extra={"format": "png-url"},
            description="A `data:image/png;base64,` URL, or an `https` link to a PNG where the server fetches them.",
        ),
    ]


class EditRequest(BaseModel):
    """One edit as the client asks for it. None stands for the default of the model that will serve it."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [_EXAMPLE],
            "allOf": [_PROMPT_SAYS_SOMETHING, _PNG_IS_LOSSLESS, _ONLY_IN_STREAMS],
        },
    )

    images: Annotated[
        list[Annotated[Picture, _StringOrObject()]],
        Field(
            min_length=1,
            max_length=MAX_IMAGES,
            description="The pictures: each a base64 PNG (JPEG or WebP where the server takes them), plain, as a "
            "`data:image/png;base64,` URL or as an object with `image_url`; at most 4 MiB once decoded. The first is "
            "edited, further ones are references.",
        ),
    ]
    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_PROMPT_CHARACTERS,
            description="What to change. Counted in Unicode code points; not only white space.",
        ),
    ]
    model: Annotated[
        str | None,
        Field(min_length=1, description="An id or alias from `GET /v1/models`; null is the server's default model."),
    ] = None
    mask: Annotated[
        Picture | None,
        _FileInForms(),
        Field(
            description="A base64 PNG with the dimensions of `images[0]`. White is edited, black is preserved "
            "exactly, grey blends."
        ),
    ] = None
    n: _Optional[Annotated[int, Field(ge=1, le=10, description="How many results to draw.")]] = 1
    size: _Optional[
        Annotated[
            SizeName, Field(description="Of the results. `auto` keeps the source's aspect within the model's range.")
        ]
    ] = "1024x1024"
    response_format: Annotated[
        Literal["url", "b64_json"] | None,
        Field(
            description="A signed link to each result, or its bytes in base64, as a stream always carries them.",
            json_schema_extra={"default": "url"},
        ),
    ] = None
    strength: Annotated[
        float | None,
        Field(ge=0.0, le=1.0, description="How far the result may leave the source; null is the model's own default."),
    ] = None
    guidance_scale: Annotated[
        float | None,
        Field(ge=0.0, le=20.0, description="The model's own guidance knob; null is the model's own default."),
    ] = None
    num_inference_steps: Annotated[
        int | None,
        Field(ge=1, le=100, description="Steps of the full schedule; null is the model's own default."),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=-(2**63),
            le=2**64 - 1,
            description="Signed or unsigned 64 bit; result `i` uses `seed + i`. Null draws one at random.",
        ),
    ] = None
    stream: _Optional[
        Annotated[
            bool,
            Field(
                description="Answer with server-sent events: `image_edit.partial_image`, then one "
                "`image_edit.completed` an image, with the picture in base64."
            ),
        ]
    ] = False
    partial_images: _Optional[
        Annotated[int, Field(ge=0, le=3, description="Previews of each image while streaming, at the most.")]
    ] = 0
    output_format: _Optional[Annotated[OutputFormat, Field(description="File format of the results.")]] = "png"
    output_compression: _Optional[
        Annotated[
            int,
            Field(ge=0, le=100, description="Quality of `jpeg` and `webp`; a `png` is lossless and takes only 100."),
        ]
    ] = LOSSLESS
    mask_mode: _Optional[
        Annotated[
            Literal["luma", "alpha", "auto"],
            Field(
                description="What edits: `luma` white, `alpha` transparent, `auto` transparent where any pixel of the "
                "mask is transparent and white otherwise."
            ),
        ]
    ] = "auto"
    priority: _Optional[
        Annotated[Priority, Field(description="Against the other requests of the model: whose turn comes first.")]
    ] = "normal"
    quality: _Optional[
        Annotated[
            Literal["auto"], Field(description="The model's own. More or fewer steps are asked for by their number.")
        ]
    ] = "auto"
    background: _Optional[
        Annotated[Literal["auto", "opaque"], Field(description="Results are opaque: no model draws transparency.")]
    ] = "auto"
    moderation: _Optional[Annotated[Literal["auto"], Field(description="The server's own: it has none.")]] = "auto"
    user: Annotated[
        str | None, Field(max_length=MAX_CALLER_CHARACTERS, description="Kept for the access log and metrics only.")
    ] = None
    safety_identifier: Annotated[
        str | None, Field(max_length=MAX_CALLER_CHARACTERS, description="Kept for the access log and metrics only.")
    ] = None

    @property
    def by_url(self) -> bool:
        """Whether the answer holds links to its results."""
        return not self.stream and self.response_format != "b64_json"

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if not re.search(_SOMETHING, self.prompt):
            raise _broken_rule("invalid", "prompt", "prompt holds only white space; it must say what to change")
        if self.partial_images and not self.stream:
            message = f"partial_images is {self.partial_images}; without stream it must be 0"
            raise _broken_rule("invalid", "partial_images", message)
        if self.stream and self.response_format == "url":
            message = "response_format is url; a stream carries its pictures itself, as b64_json"
            raise _broken_rule("invalid", "response_format", message)
        if self.output_format == "png" and self.output_compression != LOSSLESS:
            message = f"output_compression is {self.output_compression}; with output_format png it must be {LOSSLESS}"
            raise _broken_rule("invalid", "output_compression", message)
        return self


def parse(body: bytes) -> EditRequest:
    """The request in a JSON body. Raises InvalidRequest: the first rule that it breaks, in the order of `refusal`."""
    if not body:
        raise InvalidJSON("the body is empty; a JSON object with images and prompt is needed")
    for separator in (b",", b"[", b"{"):
        if _occurs_more_often(body, separator, MOST_SEPARATORS):
            found = f"more than {MOST_SEPARATORS:,} times the character '{separator.decode()}'"
            raise InvalidRequest(f"the body holds {found}; an edit request is one object of a few dozen values")
    try:
        return EditRequest.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error, request_schema()) from None


def parse_form(form: Form) -> EditRequest:
    """The request in a multipart body. Raises InvalidRequest as `parse` does."""
    known = EditRequest.model_fields
    values: dict[str, object] = {name: text for name, text in form.texts.items() if text or name not in known}
    if form.images:
        values["images"] = list(form.images)
    if form.mask:
        values["mask"] = form.mask
    try:
        return EditRequest.model_validate(values, strict=False)
    except ValidationError as error:
        raise refusal(error, request_schema()) from None


@cache
def request_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the body, free of references, so that it can stand anywhere in an OpenAPI document.

    `parse` is stricter where a schema cannot say it: 1.0 is no integer, and NaN is no number. Callers must not change
    the answer.
    """
    schema = EditRequest.model_json_schema()
    reference = schema.pop("$defs")[ImageReference.__name__]
    schema["properties"]["images"]["items"]["anyOf"][1] = reference
    return schema


def form_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a multipart body: the same fields as texts, and pictures as files.

    Up to MAX_IMAGES pictures in all: a schema cannot count those of both names together.
    """
    body = request_schema()
    fields = {name: _as_text(rule) for name, rule in body["properties"].items() if name not in ("images", "mask")}
    file: JsonValue = {"type": "string", "format": "binary"}
    image: JsonValue = {
        "type": "array",
        "items": file,
        "minItems": 1,
        "maxItems": MAX_IMAGES,
        "description": "The pictures: PNG files (JPEG or WebP where the server takes them) of at most 4 MiB, or the "
        "same in base64. The first is edited.",
    }
    mask: JsonValue = {**file, "description": body["properties"]["mask"]["description"]}
    names = ("image", "image[]")
    return {
        "type": "object",
        "properties": {**dict.fromkeys(names, image), **fields, "mask": mask},
        "required": ["prompt"],
        "anyOf": [{"required": [name]} for name in names],
        "additionalProperties": False,
        "allOf": _as_text(body["allOf"]),
    }


def _as_text(rule: Any) -> Any:
    """The same rule for a form's texts, where what is null in JSON is left empty."""
    if isinstance(rule, dict):
        return _rule_as_text(rule)
    if isinstance(rule, list):
        return [_as_text(part) for part in rule]
    return "" if rule is None else rule


def _rule_as_text(rule: dict[str, Any]) -> dict[str, Any]:
    match rule:
        case {"type": "null"}:
            return {"const": ""}
        case {"type": "boolean"}:
            return {"anyOf": [_spelled(True), _spelled(False)]}
        case {"const": bool(value)}:
            return _spelled(value)
        case {"enum": [bool(value), None]}:
            return {"anyOf": [_spelled(value), {"const": ""}]}
        case _:
            return {name: _as_text(part) for name, part in rule.items() if name != "default" or part is not None}


def _spelled(value: bool) -> dict[str, Any]:
    """The texts that pydantic reads as it, in upper and lower case."""
    words = "true|t|yes|y|on|1" if value else "false|f|no|n|off|0"
    pattern = "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in words)
    return {"anyOf": [{"enum": [value, int(value)]}, {"type": "string", "pattern": f"^({pattern})$"}]}


def _occurs_more_often(body: bytes, separator: bytes, times: int) -> bool:
    """Unlike `bytes.count` this runs at memchr's speed through long base64, and stops early."""
    place = -1
    for _ in range(times + 1):
        place = body.find(separator, place + 1)
        if place < 0:
            return False
    return True


def _broken_rule(kind: Literal["invalid", "unsupported"], field: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{message}", {"field": field, "message": message})
