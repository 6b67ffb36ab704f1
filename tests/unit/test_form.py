"""Multipart bodies in pieces of any size: what becomes a picture, what a text, and what is refused, at their end."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.codec import FormReader
from serve.errors import ImageTooLarge, InvalidRequest
from serve.schema import EditRequest, parse_form
from serve.types import Form

LIMIT = 1000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
TEXTS = {"prompt": "make it blue"}

Parts = Sequence[tuple[str, Any]]


def encoded(parts: Parts) -> tuple[bytes, str]:
    """By httpx. A part is a text, or a tuple of a file's name, bytes and type."""
    files = [(name, (None, part) if isinstance(part, str) else part) for name, part in parts]
    request = httpx.Request("POST", "http://a.example", files=files)
    return request.read(), request.headers["content-type"].partition("boundary=")[2]


def read(parts: Parts, piece: int = 10**9) -> Form:
    body, boundary = encoded(parts)
    return read_raw(body, boundary, piece)


def read_raw(body: bytes, boundary: str = "b", piece: int = 10**9) -> Form:
    reader = FormReader(boundary, LIMIT, EditRequest.model_fields)
    for start in range(0, len(body), piece):
        reader.feed(body[start : start + piece])
    return reader.close()


def upload(data: bytes) -> tuple[str, bytes, str]:
    return "upload", data, "application/octet-stream"


def refused(form: Form) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_form(form)
    return caught.value


def form(**texts: str) -> Form:
    return Form((PNG,), None, {**TEXTS, **texts})


@pytest.mark.parametrize("name", ["image", "image[]", "images", "images[]", "image[0]"])
def test_an_image_goes_by_any_of_the_names_that_clients_use(name: str):
    assert read([("prompt", "x"), (name, upload(PNG))]) == Form((PNG,), None, {"prompt": "x"})


def test_images_keep_the_order_that_they_were_sent_in():
    files = [PNG + bytes([i]) for i in range(4)]
    assert read([("image[]", upload(data)) for data in files]).images == tuple(files)


def test_a_picture_may_be_a_text_in_base64():
    assert read([("image", "aGk="), ("mask", "data:,")]) == Form(("aGk=",), "data:,", {})


def test_a_text_may_be_larger_than_a_megabyte():
    assert read([("image", "A" * 3_000_000)]).images == ("A" * 3_000_000,)


@settings(deadline=None)
@given(st.integers(1, 700), st.binary(max_size=400), st.text(max_size=40))
def test_it_does_not_matter_how_the_body_is_cut(piece: int, data: bytes, text: str):
    parts: Parts = [
        ("prompt", text),
        ("image[]", upload(PNG)),
        ("image[]", upload(data + b"\r\n--")),
        ("mask", upload(PNG)),
    ]
    assert read(parts, piece) == Form((PNG, data + b"\r\n--"), PNG, {"prompt": text})


def test_a_file_that_holds_nothing_was_left_empty():
    body = b'--b\r\ncontent-disposition: form-data; name="%s"; filename=""\r\n\r\n\r\n'
    found = read_raw(body % b"mask" + body % b"image" + b"--b--\r\n")
    assert (found.images, bool(found.mask)) == ((), False)


def test_a_file_at_the_limit_is_taken_and_one_byte_more_is_not():
    assert read([("image", upload(bytes(LIMIT)))]).images == (bytes(LIMIT),)
    with pytest.raises(ImageTooLarge, match=r"images\[1\] is 1001 bytes; at most 1000 bytes") as caught:
        read([("image[]", upload(PNG)), ("image[]", upload(bytes(LIMIT + 1)))])
    assert caught.value.param == "images[1]"


def test_nothing_is_kept_of_a_file_beyond_the_limit():
    reader = FormReader("b", LIMIT, EditRequest.model_fields)
    reader.feed(b'--b\r\ncontent-disposition: form-data; name="image"; filename="f"\r\n\r\n')
    for _ in range(100):
        reader.feed(bytes(LIMIT))
    assert reader.held_bytes <= LIMIT


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("prompt", "a"), ("prompt", "b")], "prompt"),
        ([("mask", upload(PNG)), ("mask", upload(PNG))], "mask"),
        ([("prompt", upload(b"\xff"))], "prompt"),
        ([("prompt", upload(bytes(LIMIT + 1)))], "prompt"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(parts: Parts, param: str):
    with pytest.raises(InvalidRequest) as caught:
        read(parts)
    assert caught.value.param == param


def test_a_text_that_is_no_utf_8_is_refused():
    with pytest.raises(InvalidRequest, match="prompt is no text in UTF-8"):
        read_raw(b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--b--\r\n')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form",
        b"--b",
        b"--b\r\n",
        b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\nunfinished",
        b"--b\r\ncontent-disposition: attachment; name=a\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"x-a: b\r\n" * 100 + b"\r\nx\r\n--b--\r\n",
        b"".join(b'--b\r\ncontent-disposition: form-data; name="a%d"\r\n\r\nx\r\n' % i for i in range(300))
        + b"--b--\r\n",
    ],
)
def test_a_body_that_is_no_form_is_refused_in_words_at_its_end(body: bytes):
    with pytest.raises(InvalidRequest, match="the body is no multipart/form-data as it says: "):
        read_raw(body)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 60))
def test_whatever_is_sent_ends_as_a_form_or_a_refusal(noise: bytes, piece: int):
    body = b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n' + noise
    try:
        ended: object = read_raw(body, piece=piece)
    except InvalidRequest as refusal:
        ended = refusal.message
    assert isinstance(ended, Form) or len(str(ended)) < 300


# What the texts mean


def test_texts_are_read_leniently():
    request = parse_form(form(n="2", seed="-7", strength=".5", guidance_scale="3", stream="true", partial_images=" 3 "))
    told = (request.n, request.seed, request.strength, request.guidance_scale, request.stream, request.partial_images)
    assert told == (2, -7, 0.5, 3.0, True, 3)


def test_a_text_that_is_empty_is_absent():
    assert parse_form(form(n="", seed="", size="", model="", strength="", user="")) == parse_form(form())


@pytest.mark.parametrize(
    ("texts", "code", "param"),
    [
        ({"n": "two"}, "invalid_type", "n"),
        ({"n": "1.5"}, "invalid_type", "n"),
        ({"n": "11"}, "invalid_value", "n"),
        ({"strength": "nan"}, "invalid_value", "strength"),
        ({"strength": "a lot"}, "invalid_type", "strength"),
        ({"stream": "maybe"}, "invalid_type", "stream"),
        ({"size": "1x1"}, "invalid_value", "size"),
        ({"sead": "7"}, "unknown_parameter", "sead"),
        ({"sead": ""}, "unknown_parameter", "sead"),
        ({"prompt": ""}, "missing_required_parameter", "prompt"),
        ({"prompt": "  "}, "invalid_value", "prompt"),
        ({"user": "u" * 513}, "invalid_value", "user"),
    ],
)
def test_a_wrong_text_is_refused_by_name(texts: dict[str, str], code: str, param: str):
    error = refused(form(**texts))
    assert (error.code, error.param) == (code, param)


def test_a_form_without_images_or_with_too_many_is_refused():
    assert refused(Form((), None, TEXTS)).code == "missing_required_parameter"
    assert refused(Form((PNG,) * 11, None, TEXTS)).code == "too_many_images"


def test_an_unknown_file_is_refused_by_name():
    error = refused(read([*TEXTS.items(), ("image", upload(PNG)), ("sketch", upload(PNG))]))
    assert (error.code, error.param) == ("unknown_parameter", "sketch")


def test_a_text_may_come_as_a_file():
    assert parse_form(read([("prompt", upload(b"make it blue")), ("image", upload(PNG))])).prompt == "make it blue"
