"""The file formats of results."""

import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.http.api import canvas_request, draw, drawing_request, files, pixels, post

CANVAS = pictures.photo((256, 256))


def _kind(data: bytes) -> str:
    """The format by the file's first bytes."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "unknown"


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_result_is_in_the_format_that_was_asked_for(http: httpx.Client, output_format: str) -> None:
    response = post(http, canvas_request(output_format=output_format))
    (file,) = files(response)
    assert _kind(file) == output_format
    assert response.json()["output_format"] == output_format
    assert np.abs(pixels(file).astype(int) - CANVAS).mean() < 2


@pytest.mark.parametrize("fields", [{"output_format": "png"}, {"output_format": "webp"}, {}], ids=str)
def test_png_and_webp_are_lossless_by_default(http: httpx.Client, fields: dict[str, str]) -> None:
    (file,) = files(post(http, canvas_request(**fields)))
    np.testing.assert_array_equal(pixels(file), CANVAS)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_lower_compression_value_gives_a_smaller_and_worse_file(http: httpx.Client, output_format: str) -> None:
    low, high = (
        files(post(http, canvas_request(output_format=output_format, output_compression=value)))[0] for value in (5, 95)
    )
    assert len(low) < len(high)
    worse, better = (np.abs(pixels(file).astype(int) - CANVAS).mean() for file in (low, high))
    assert better < worse


def test_the_format_does_not_change_what_is_drawn(http: httpx.Client) -> None:
    (png,), (webp,) = draw(http, output_format="png"), draw(http, output_format="webp")
    np.testing.assert_array_equal(pixels(png), pixels(webp))


def test_a_file_tells_the_model_and_the_seed_of_the_answer(http: httpx.Client) -> None:
    answer = post(http, drawing_request(n=2, seed=None))
    told = [json.loads(Image.open(io.BytesIO(file)).info["retouch"]) for file in files(answer)]
    assert [note["seed"] for note in told] == [item["seed"] for item in answer.json()["data"]]
    assert {note["model"] for note in told} == {answer.json()["model"]}
    assert not any("prompt" in note for note in told)


def test_what_a_file_tells_is_enough_to_draw_it_again(http: httpx.Client) -> None:
    fields = {"size": "256x256", "prompt": "make it black and white", "strength": 0.5}
    (file,) = draw(http, **{**fields, "seed": None})
    told = json.loads(Image.open(io.BytesIO(file)).info["retouch"])
    del told["server"]
    assert draw(http, prompt=fields["prompt"], **told) == [file]
