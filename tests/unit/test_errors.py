"""Every error keeps what it says across processes, and its class says what the HTTP contract promises."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from serve import errors
from serve.deployments.envelopes import error_response
from serve.errors import EditError

CONTRACT = {
    "InvalidRequest": (400, "invalid_request_error", "invalid_value"),
    "MissingParameter": (400, "invalid_request_error", "missing_required_parameter"),
    "UnknownParameter": (400, "invalid_request_error", "unknown_parameter"),
    "UnsupportedParameter": (400, "invalid_request_error", "unsupported_parameter"),
    "InvalidType": (400, "invalid_request_error", "invalid_type"),
    "InvalidJSON": (400, "invalid_request_error", "invalid_json"),
    "InvalidBase64": (400, "invalid_request_error", "invalid_base64"),
    "InvalidImage": (400, "invalid_request_error", "invalid_image"),
    "UnsupportedImageFormat": (400, "invalid_request_error", "unsupported_image_format"),
    "ImageTooLarge": (400, "invalid_request_error", "image_too_large"),
    "TooManyImages": (400, "invalid_request_error", "too_many_images"),
    "TooManyPixels": (400, "invalid_request_error", "too_many_pixels"),
    "MaskSizeMismatch": (400, "invalid_request_error", "mask_size_mismatch"),
    "MissingAPIKey": (401, "authentication_error", "missing_api_key"),
    "InvalidAPIKey": (401, "authentication_error", "invalid_api_key"),
    "ModelNotAllowed": (403, "permission_error", "model_not_allowed"),
    "InvalidSignature": (403, "permission_error", "invalid_signature"),
    "LinkExpired": (403, "permission_error", "expired"),
    "NotFound": (404, "not_found_error", "not_found"),
    "ModelNotFound": (404, "not_found_error", "model_not_found"),
    "MethodNotAllowed": (405, "invalid_request_error", "method_not_allowed"),
    "RequestTimeout": (408, "invalid_request_error", "timeout"),
    "IdempotencyKeyReused": (409, "invalid_request_error", "idempotency_key_reused"),
    "RequestTooLarge": (413, "invalid_request_error", "request_too_large"),
    "UnsupportedMediaType": (415, "invalid_request_error", "unsupported_media_type"),
    "Overloaded": (429, "rate_limit_error", "server_overloaded"),
    "RateLimited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "LimitTooLow": (429, "rate_limit_error", "rate_limit_exceeded"),
    "InternalError": (500, "server_error", "internal_error"),
    "BackendUnavailable": (503, "server_error", "backend_unavailable"),
    "DeviceOutOfMemory": (503, "server_error", "backend_unavailable"),
    "BackendLost": (503, "server_error", "backend_unavailable"),
}


def every_error() -> list[type[EditError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, EditError) and value is not EditError
    ]


error_classes = st.sampled_from(every_error())
seconds = st.none() | st.floats(0, 1e6)


def facts(error: EditError) -> tuple[object, ...]:
    return type(error), str(error), error.message, error.code, error.param, error.retry_after_s, error.limits


def test_each_class_carries_the_status_type_and_code_of_the_contract():
    assert {cls.__name__: (cls.status, cls.type, cls.default_code) for cls in every_error()} == CONTRACT


def test_only_overload_a_spent_limit_and_an_absent_backend_invite_a_retry():
    retryable = {cls.__name__ for cls in every_error() if cls.retryable}
    assert retryable == {"Overloaded", "RateLimited", "BackendUnavailable", "DeviceOutOfMemory", "BackendLost"}


@given(error_classes, st.text(), st.none() | st.text(min_size=1), st.none() | st.text(), seconds)
def test_an_error_survives_pickling_whole(
    cls: type[EditError], message: str, code: str | None, param: str | None, wait_s: float | None
):
    error = cls(message, code=code, param=param, retry_after_s=wait_s, limits={"x-ratelimit-limit-requests": "1"})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)
    assert facts(cloudpickle.loads(cloudpickle.dumps(error))) == facts(error)


@pytest.mark.parametrize("cls", every_error())
def test_an_error_raised_behind_ray_is_still_its_class_and_keeps_its_fields(cls: type[EditError]):
    error = cls("images[2] is broken", param="images[2]", retry_after_s=2.5)
    arrived = RayError.from_bytes(RayTaskError("edit", "a traceback", error).to_bytes())
    assert isinstance(arrived, RayTaskError)
    assert isinstance(arrived.cause, EditError)
    assert facts(arrived.cause) == facts(error)
    assert isinstance(arrived.as_instanceof_cause(), cls)


def test_a_code_given_by_hand_replaces_that_of_the_class():
    assert errors.Overloaded("slow down", code="rate_limit_exceeded").code == "rate_limit_exceeded"


@pytest.mark.parametrize("cls", every_error())
def test_no_client_tries_again_by_itself_what_cannot_succeed(cls: type[EditError]):
    """As OpenAI's clients decide it, where no header tells them."""
    headers = error_response(cls("no")).headers
    tries_again = cls.status in (408, 409, 429) or cls.status >= 500
    assert headers.get("x-should-retry") == (str(cls.retryable).lower() if tries_again else None)


def test_a_refusal_tells_what_is_left_of_the_limits():
    headers = error_response(errors.RateLimited("spent", limits={"x-ratelimit-remaining-requests": "0"})).headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
