"""The JSON at the door: `request` comes in, `refusals` says why one is turned away, `answers` go out."""

from serve.schema.answers import (
    EditResponse,
    ErrorBody,
    ErrorDetail,
    FieldRange,
    ImageItem,
    ModelBody,
    ModelDefaults,
    ModelList,
    TokenDetails,
    TokenUsage,
)
from serve.schema.request import (
    LOSSLESS,
    MAX_IMAGES,
    MAX_PROMPT_CHARACTERS,
    SIZES,
    EditRequest,
    ImageReference,
    SizeName,
    parse,
    request_schema,
)

__all__ = [
    "LOSSLESS",
    "MAX_IMAGES",
    "MAX_PROMPT_CHARACTERS",
    "SIZES",
    "EditRequest",
    "EditResponse",
    "ErrorBody",
    "ErrorDetail",
    "FieldRange",
    "ImageItem",
    "ImageReference",
    "ModelBody",
    "ModelDefaults",
    "ModelList",
    "SizeName",
    "TokenDetails",
    "TokenUsage",
    "parse",
    "request_schema",
]
