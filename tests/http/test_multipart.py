"""The same edits as in JSON, sent as forms: by the official clients' shapes, and by hand in awkward pieces."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.http.api import (
    EDITS,
    SOURCE,
    SOURCE_SIZE,
    Fields,
    canvas_request,
    draw,
    drawing_request,
    files,
    invalid,
    pixels,
    post,
    refusal,
)
from tests.http.conftest import KONTEXT, TINY, Server
from tests.http.wire import Wire

PNG = base64.b64decode(SOURCE)
OTHER = pictures.rgb((300, 200))
LIMIT = 4 * 2**20


def send(http: httpx.Client, *images: bytes, mask: bytes | None = None, **fields: Any) -> httpx.Response:
    """As OpenAI's client does: text parts first, one picture as `image`, several as `image[]`, all named `upload`."""
    name = "image[]" if len(images) > 1 else "image"
    parts = [(name, ("upload", data, "application/octet-stream")) for data in images]
    parts += [("mask", ("upload", mask, "application/octet-stream"))] if mask else []
    body = {name: str(value) for name, value in drawing_request(**fields).items() if name != "images"}
    return http.post(EDITS, data=body, files=parts)


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_a_form_draws_what_json_draws(http: httpx.Client, model: str) -> None:
    assert files(send(http, PNG, model=model)) == draw(http, model=model)


def test_several_images_keep_their_order(http: httpx.Client) -> None:
    in_json = [pictures.base64_of(data) for data in (PNG, OTHER)]
    both: Fields = {"model": KONTEXT, "num_inference_steps": 2}
    assert files(send(http, PNG, OTHER, **both)) == draw(http, images=in_json, **both)
    assert files(send(http, OTHER, PNG, **both)) == draw(http, images=in_json[::-1], **both)


def test_a_mask_by_alpha_and_one_by_luma_mean_the_same(http: httpx.Client) -> None:
    grey = np.zeros(SOURCE_SIZE[::-1], np.uint8)
    grey[:, :100] = 255
    clear = np.dstack([np.full_like(grey, 90)] * 3 + [255 - grey])
    luma, alpha = (_png(Image.fromarray(mask)) for mask in (grey, clear))
    by_luma, by_alpha = (files(send(http, PNG, mask=mask))[0] for mask in (luma, alpha))
    assert by_luma == by_alpha
    kept = pixels(PNG)
    np.testing.assert_array_equal(pixels(by_alpha)[:, 100:], kept[:, 100:])
    assert not np.array_equal(pixels(by_alpha)[:, :100], kept[:, :100])


def test_base64_in_a_text_part_may_pass_a_megabyte(http: httpx.Client) -> None:
    noise = _png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)))
    assert len(noise) > 1.2 * 2**20
    fields = {name: str(value) for name, value in canvas_request().items()}
    text = http.post(EDITS, data={**fields, "images": base64.b64encode(noise).decode()}, files={"x": ("", b"")})
    assert refusal(text) == invalid("unknown_parameter", "x")
    parts = {name: (None, value) for name, value in {**fields, "images": base64.b64encode(noise).decode()}.items()}
    assert files(http.post(EDITS, files=parts)) == files(post(http, canvas_request(images=[pictures.base64_of(noise)])))


def test_a_form_may_come_in_chunks(server: Server) -> None:
    body, media_type = _encoded(canvas_request())
    with Wire(server.url) as wire:
        wire.start({"transfer-encoding": "chunked", "content-type": media_type})
        for start in range(0, len(body), 1000):
            piece = body[start : start + 1000]
            wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        wire.send(b"0\r\n\r\n")
        assert len(files(wire.answer())) == 1


def test_a_file_over_the_limit_is_refused_by_name_and_with_its_size(http: httpx.Client) -> None:
    response = send(http, PNG, bytes(LIMIT + 2**20))
    assert refusal(response) == invalid("image_too_large", "images[1]")
    assert "images[1] is 5 MiB; at most 4 MiB" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("images", "fields", "expected"),
    [
        ([], {}, invalid("missing_required_parameter", "images")),
        ([PNG] * 11, {}, invalid("too_many_images", "images")),
        ([b"GIF89a"], {}, invalid("unsupported_image_format", "images[0]")),
        ([pictures.SIGNATURE], {}, invalid("invalid_image", "images[0]")),
        ([PNG], {"n": "many"}, invalid("invalid_type", "n")),
        ([PNG], {"sead": "7"}, invalid("unknown_parameter", "sead")),
        ([PNG], {"model": "nothing"}, (404, "not_found_error", "model_not_found", "model")),
    ],
)
def test_a_wrong_form_is_refused_as_json_would_be(
    http: httpx.Client, images: list[bytes], fields: dict[str, str], expected: Any
) -> None:
    body = {name: str(value) for name, value in canvas_request().items() if name != "images"}
    parts = [("image[]", ("upload", data)) for data in images] or [("mask", ("", b""))]
    assert refusal(http.post(EDITS, data={**body, **fields}, files=parts)) == expected


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--c\r\n"),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nx'),
        ("multipart/form-data; boundary=" + "b" * 71, b"x"),
    ],
)
def test_what_is_no_form_is_refused(http: httpx.Client, media_type: str, body: bytes) -> None:
    response = http.post(EDITS, content=body, headers={"content-type": media_type})
    assert refusal(response) == invalid("invalid_value", None)


def test_a_form_beyond_the_bodys_limit_is_refused_while_it_streams_in(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.start({"transfer-encoding": "chunked", "content-type": "multipart/form-data; boundary=b"})
        for _ in range(server.settings.limits.body_bytes // 2**20 + 1):
            wire.send(b"100000\r\n" + bytes(2**20) + b"\r\n")
        # The body's last chunk is never sent.
        assert refusal(wire.answer())[:1] == (413,)


def _encoded(body: dict[str, Any]) -> tuple[bytes, str]:
    fields = {name: (None, str(value)) for name, value in body.items() if name != "images"}
    request = httpx.Request("POST", "http://a.example", files={**fields, "image": ("upload", PNG)})
    return request.read(), request.headers["content-type"]


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
