"""The errors that a request can end with, and what each says over HTTP.

Every error that leaves a module of this package is an `EditError`. Its class fixes the HTTP status and the OpenAI
error type; the instance adds the code, the parameter at fault and the message. The ingress renders it; nothing else
knows about HTTP.
"""

from collections.abc import Mapping
from functools import partial


class EditError(Exception):
    """One refused or failed request.

    message: what was found and what is allowed, for the caller's eyes. param: JSON path of the field at fault
    (`images[2]`). retry_after_s: seconds after which a retry may succeed. retryable: whether a retry can help at all.
    limits: what is left of the caller's, by the names that its answer tells it under.
    """

    status: int = 500
    type: str = "server_error"
    default_code: str = "internal_error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        limits: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        self.limits = limits or {}

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders by pickle, which would otherwise lose the keyword arguments."""
        told = {"code": self.code, "param": self.param, "retry_after_s": self.retry_after_s, "limits": self.limits}
        return partial(type(self), **told), (self.message,)


class InvalidRequest(EditError):
    """The request cannot be served as it stands. The code says which rule it breaks."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class MissingParameter(InvalidRequest):
    default_code = "missing_required_parameter"


class UnknownParameter(InvalidRequest):
    default_code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    """A field that the server knows and the chosen model cannot honour."""

    default_code = "unsupported_parameter"


class InvalidType(InvalidRequest):
    default_code = "invalid_type"


class InvalidJSON(InvalidRequest):
    default_code = "invalid_json"


class InvalidBase64(InvalidRequest):
    default_code = "invalid_base64"


class InvalidImage(InvalidRequest):
    """The bytes claim to be a PNG and cannot be decoded."""

    default_code = "invalid_image"


class UnsupportedImageFormat(InvalidRequest):
    default_code = "unsupported_image_format"


class ImageTooLarge(InvalidRequest):
    """One picture's bytes pass the limit."""

    default_code = "image_too_large"


class TooManyImages(InvalidRequest):
    default_code = "too_many_images"


class TooManyPixels(InvalidRequest):
    default_code = "too_many_pixels"


class MaskSizeMismatch(InvalidRequest):
    default_code = "mask_size_mismatch"


class MissingAPIKey(EditError):
    status = 401
    type = "authentication_error"
    default_code = "missing_api_key"


class InvalidAPIKey(EditError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class ModelNotAllowed(EditError):
    """The key is good, and not for this model."""

    status = 403
    type = "permission_error"
    default_code = "model_not_allowed"


class InvalidSignature(EditError):
    """A link that this server did not sign."""

    status = 403
    type = "permission_error"
    default_code = "invalid_signature"


class LinkExpired(EditError):
    status = 403
    type = "permission_error"
    default_code = "expired"


class NotFound(EditError):
    status = 404
    type = "not_found_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class MethodNotAllowed(EditError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(EditError):
    """The body, or the edit, did not finish in the time that the request allows."""

    status = 408
    type = "invalid_request_error"
    default_code = "timeout"


class IdempotencyKeyReused(EditError):
    """The key stands for another request already."""

    status = 409
    type = "invalid_request_error"
    default_code = "idempotency_key_reused"


class RequestTooLarge(EditError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedMediaType(EditError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class Overloaded(EditError):
    """The queue is full. `retry_after_s` comes from the work that is queued."""

    status = 429
    type = "rate_limit_error"
    default_code = "server_overloaded"
    retryable = True


class RateLimited(EditError):
    """The caller has spent what its key allows."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"
    retryable = True


class LimitTooLow(RateLimited):
    """The caller's key never allows as much as was asked for."""

    retryable = False


class InternalError(EditError):
    """Our own bug. The message carries no detail; the log does."""


class BackendUnavailable(EditError):
    """The model's process died, is draining or has not started; another attempt can succeed."""

    status = 503
    default_code = "backend_unavailable"
    retryable = True


class DeviceOutOfMemory(BackendUnavailable):
    """The device had no room for this call; a smaller one, or a later one, can succeed."""


class BackendLost(BackendUnavailable):
    """An executor is gone for good in this process, where nothing can succeed any more; in another one it can."""


class ConfigurationError(Exception):
    """A start that cannot succeed. The message is one sentence that names the key and shows the value."""
