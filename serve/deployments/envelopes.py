"""An error as the API answers it."""

import math

from starlette.responses import JSONResponse

from serve.errors import EditError, RequestTimeout
from serve.schema import ErrorBody


def error_response(error: EditError) -> JSONResponse:
    """The contract's envelope, with `retry-after` in whole seconds and `x-should-retry` where a retry can help."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status >= 500 or isinstance(error, RequestTimeout):
        headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(ErrorBody.of(error).model_dump(), error.status, headers)
