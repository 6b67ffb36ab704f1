"""What the server answers: results, errors and the models that it serves, in OpenAI's shapes."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.errors import EditError
from serve.schema.refusals import value_rule
from serve.schema.request import SIZES, EditRequest, SizeName, request_schema
from serve.types import ModelFacts, OutputFormat, Usage

_TextIfAny = Annotated[str | None, Field(exclude_if=lambda value: value is None)]


class ImageItem(BaseModel):
    """One result: a link or its bytes in base64, never both. revised_prompt only where the prompt that ran differs."""

    model_config = ConfigDict(frozen=True)

    url: _TextIfAny = None
    b64_json: _TextIfAny = None
    seed: int
    revised_prompt: _TextIfAny = None

    @model_validator(mode="after")
    def _holds_one_form(self) -> Self:
        if (self.url is None) == (self.b64_json is None):
            raise ValueError("a result holds either url or b64_json")
        return self


class TokenDetails(BaseModel):
    """The tokens read: of the prompt, and latent ones of the pictures."""

    text_tokens: int
    image_tokens: int


class TokenUsage(BaseModel):
    """The model's own tokens, as OpenAI counts them up."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: TokenDetails

    @classmethod
    def of(cls, usage: Usage) -> Self:
        read = usage.text_tokens + usage.image_tokens
        return cls(
            input_tokens=read,
            output_tokens=usage.output_tokens,
            total_tokens=read + usage.output_tokens,
            input_tokens_details=TokenDetails(text_tokens=usage.text_tokens, image_tokens=usage.image_tokens),
        )


class EditResponse(BaseModel):
    """created: Unix seconds. size: of the results, `"512x512"`, also where the request said `auto`."""

    created: int
    model: str
    size: str
    output_format: OutputFormat
    data: list[ImageItem]
    usage: TokenUsage


class _PictureEvent(BaseModel):
    """What the events that carry a picture have in common. created_at: Unix seconds. image_index: of the request's n.

    quality and background: as OpenAI's clients know them.
    """

    b64_json: str
    created_at: int
    size: str
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    image_index: int


class PartialImageEvent(_PictureEvent):
    """What an image will look like. partial_image_index: of its previews, from 0 on."""

    type: Literal["image_edit.partial_image"] = "image_edit.partial_image"
    partial_image_index: int


class CompletedEvent(_PictureEvent):
    """One result, as an `ImageItem` of an answer would be."""

    type: Literal["image_edit.completed"] = "image_edit.completed"
    model: str
    seed: int
    revised_prompt: _TextIfAny = None
    usage: TokenUsage


class ProgressEvent(BaseModel):
    """An image has run a step. Sent only where the caller asks for it, since OpenAI's clients do not know it."""

    type: Literal["image_edit.progress"] = "image_edit.progress"
    image_index: int
    step: int
    total: int


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


ERROR_EVENT = "error"
"""The name of a stream's last event, where it fails. Its data is an `ErrorBody`."""


class ErrorBody(BaseModel):
    """OpenAI's error shape; all four keys are always there."""

    error: ErrorDetail

    @classmethod
    def of(cls, error: EditError) -> Self:
        return cls(error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))


class ModelDefaults(BaseModel):
    """What a request gets for the sampling fields that it leaves out."""

    num_inference_steps: int
    strength: float
    guidance_scale: float


class FieldRange(BaseModel):
    """Bounds of a numeric field, both included."""

    min: int | float
    max: int | float


class PlayedDevice(BaseModel):
    """A device that computes nothing and takes the time of a table. speed: how many times as fast it goes."""

    timings: str
    speed: float


class ModelBody(BaseModel):
    """A model in OpenAI's shape, then what it adds: which request fields it honours and their ranges. simulated: only
    of a model on such a device."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "retouch"
    family: str
    backend: str
    simulated: Annotated[PlayedDevice | None, Field(exclude_if=lambda value: value is None)] = None
    precision: str
    aliases: list[str]
    sizes: list[SizeName]
    max_images: int
    defaults: ModelDefaults
    fields: list[str]
    ranges: dict[str, FieldRange]

    @classmethod
    def of(
        cls,
        model_id: str,
        *,
        family: str,
        backend: str,
        precision: str,
        aliases: Sequence[str],
        facts: ModelFacts,
        created: int,
        simulated: PlayedDevice | None = None,
    ) -> Self:
        """created: Unix seconds at which the model became ready to serve."""
        fields = [name for name in EditRequest.model_fields if facts.has_guidance or name != "guidance_scale"]
        return cls(
            id=model_id,
            created=created,
            family=family,
            backend=backend,
            simulated=simulated,
            precision=precision,
            aliases=list(aliases),
            sizes=list(SIZES),
            max_images=facts.max_images,
            defaults=ModelDefaults(
                num_inference_steps=facts.default_steps,
                strength=facts.default_strength,
                guidance_scale=facts.default_guidance,
            ),
            fields=fields,
            ranges={name: span for name, span in _ranges().items() if name in fields},
        )


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody]


def _ranges() -> dict[str, FieldRange]:
    rules = {name: value_rule(rule) for name, rule in request_schema()["properties"].items()}
    return {
        name: FieldRange(min=rule["minimum"], max=rule["maximum"]) for name, rule in rules.items() if "minimum" in rule
    }
