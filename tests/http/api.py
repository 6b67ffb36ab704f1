"""What the HTTP tests send, and how they read what comes back; every answer is checked for the contract's shape."""

import base64
import io
from enum import Enum
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from tests import pictures

EDITS = "/v1/images/edits"
JSON = {"content-type": "application/json"}
SOURCE_SIZE = (256, 256)
SOURCE = pictures.base64_of(pictures.rgb(SOURCE_SIZE))


class Absent(Enum):
    """Unlike an object(), it has the same name in every process that runs tests."""

    ABSENT = 0


ABSENT: Any = Absent.ABSENT
"""As a field's value: the field is not sent."""

Pixels = npt.NDArray[np.uint8]
Fields = dict[str, Any]
Refusal = tuple[int, str, str, str | None]
"""Status, and the error's type, code and param."""

OVERLOADED: Refusal = (429, "rate_limit_error", "server_overloaded", None)


def canvas_request(**fields: Any) -> Fields:
    """A valid request that draws nothing, since its strength is 0, with these fields instead."""
    body = {
        "images": [SOURCE],
        "prompt": "make it red",
        "size": "256x256",
        "response_format": "b64_json",
        "strength": 0,
        **fields,
    }
    return {name: value for name, value in body.items() if value is not ABSENT}


def drawing_request(**fields: Any) -> Fields:
    """A valid request of one step, with these fields instead."""
    return canvas_request(**{"strength": 1, "num_inference_steps": 1, "seed": 7, **fields})


def post(http: httpx.Client, body: Fields) -> httpx.Response:
    return http.post(EDITS, json=body)


def files(response: httpx.Response) -> list[bytes]:
    """The pictures of an answer in base64, as files."""
    assert response.status_code == 200, response.text
    return [base64.b64decode(item["b64_json"], validate=True) for item in response.json()["data"]]


def draw(http: httpx.Client, **fields: Any) -> list[bytes]:
    return files(post(http, drawing_request(**fields)))


def pixels(data: bytes) -> Pixels:
    """(H, W, 3) of an answered file, which must be RGB without transparency."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def refusal(response: httpx.Response) -> Refusal:
    """The error of an answer, whose form must be the contract's."""
    assert response.headers["content-type"] == "application/json"
    assert len(response.headers.get_list("x-request-id")) == 1
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert 0 < len(error["message"]) < 1000
    assert "Traceback" not in error["message"]
    return response.status_code, error["type"], error["code"], error["param"]


def invalid(code: str, param: str | None) -> Refusal:
    return 400, "invalid_request_error", code, param
