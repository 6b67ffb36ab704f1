"""Base64 text: what is taken, what is refused, and that the limit is kept to the byte."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.codec import decode_base64
from serve.errors import EditError, ImageTooLarge, InvalidBase64, UnsupportedImageFormat
from tests import pictures

LIMIT = 4 * 2**20


@given(st.binary(max_size=300))
def test_plain_base64_and_data_urls_give_the_same_bytes(data: bytes):
    assert decode_base64(pictures.base64_of(data), "images[0]", LIMIT) == data
    assert decode_base64(pictures.data_url(data), "images[0]", LIMIT) == data


@pytest.mark.parametrize(
    "start", ["DATA:image/png;base64,", "data:IMAGE/PNG;BASE64,", "data:image/png;name=a.png;base64,"]
)
def test_a_data_url_is_read_in_any_case_and_with_parameters(start: str):
    assert decode_base64(start + "aGVsbG8=", "images[0]", LIMIT) == b"hello"


def test_an_animated_pngs_media_type_is_accepted():
    assert decode_base64("data:image/apng;base64,aGVsbG8=", "images[0]", LIMIT) == b"hello"


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_wrapped_lines_are_accepted(line_break: str):
    data = pictures.rgb()
    wrapped = base64.encodebytes(data).decode().replace("\n", line_break)
    assert decode_base64(wrapped, "mask", LIMIT) == data
    assert decode_base64("data:image/png;base64," + wrapped, "mask", LIMIT) == data


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aGVs bG8=", "' '"),
        (" aGVsbG8=", "' '"),
        ("aGVsbG8=\t", "'\\t'"),
        ("aGVs*G8=", "'*'"),
        ("aGVs_G8=", "'_'"),
        ("aGVsbé8=", "'é'"),
        ("\ud800aaa", "'\\ud800'"),
        ("aGVsbG8", "multiple of 4"),
        ("aGV=bG8=", "not valid base64"),
        ("====", "not valid base64"),
        ("data:image/png;base64,aGVs*G8=", "'*'"),
        ("data:image/png,aGVsbG8=", "not marked as base64"),
        ("data:image/png;base64", "without a comma"),
        ("https://example.com/a.png", "link"),
    ],
)
def test_what_is_no_base64_is_refused_by_name(text: str, found: str):
    with pytest.raises(InvalidBase64) as raised:
        decode_base64(text, "images[3]", LIMIT)
    assert (raised.value.code, raised.value.param) == ("invalid_base64", "images[3]")
    assert raised.value.message.startswith("images[3] ")
    assert found in raised.value.message


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/webp", "text/plain", ""])
def test_another_media_type_is_refused_by_name(media_type: str):
    with pytest.raises(UnsupportedImageFormat, match=media_type or "no media type") as raised:
        decode_base64(pictures.data_url(pictures.rgb(), media_type), "images[0]", LIMIT)
    assert raised.value.param == "images[0]"


@pytest.mark.parametrize("limit", [1024, 1025, 1026])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_the_limit_is_kept_to_the_byte(limit: int, prefix: str):
    exact, above = (prefix + pictures.base64_of(bytes(count)) for count in (limit, limit + 1))
    assert len(decode_base64(exact, "images[0]", limit)) == limit
    with pytest.raises(ImageTooLarge, match=f"{limit + 1} bytes; at most {limit} bytes"):
        decode_base64(above, "images[0]", limit)


def test_the_limit_does_not_count_line_breaks():
    text = base64.encodebytes(bytes(1024)).decode()
    assert len(decode_base64(text, "images[0]", 1024)) == 1024


def test_what_is_too_large_is_refused_before_it_is_decoded():
    with pytest.raises(ImageTooLarge) as raised:
        decode_base64("*" * 6_571_300, "images[2]", LIMIT)
    assert raised.value.message == "images[2] is 4.7 MiB; at most 4 MiB are accepted"
    assert (raised.value.code, raised.value.param) == ("image_too_large", "images[2]")


@given(st.text(max_size=60) | st.text("data:imge/pnbs64,;=+A\n", max_size=60))
def test_any_text_is_bytes_or_one_of_two_refusals(text: str):
    refused: EditError | None = None
    try:
        decode_base64(text, "mask", LIMIT)
    except (InvalidBase64, UnsupportedImageFormat) as error:
        refused = error
    assert refused is None or refused.param == "mask"
