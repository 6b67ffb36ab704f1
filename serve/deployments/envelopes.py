"""An error as the API answers it."""

import math

from starlette.responses import JSONResponse

from serve.errors import EditError
from serve.schema import ErrorBody

TRIED_AGAIN = {408, 409, 429}
"""What OpenAI's clients send again by themselves, as they do whatever is 500 or above, unless they are told not to."""


def error_response(error: EditError) -> JSONResponse:
    """The contract's envelope: `retry-after` in whole seconds and, in `x-should-retry`, whether a retry can help."""
    headers = {**error.limits}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status >= 500 or error.status in TRIED_AGAIN:
        headers["x-should-retry"] = "true" if error.retryable else "false"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(ErrorBody.of(error).model_dump(), error.status, headers)
