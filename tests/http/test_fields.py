"""Every row of the request's table: what is accepted at each bound, and how one step beyond it is refused."""

import json
from typing import Any

import httpx
import pytest

from tests import pictures
from tests.http.api import (
    ABSENT,
    EDITS,
    JSON,
    SOURCE,
    SOURCE_SIZE,
    Fields,
    canvas_request,
    files,
    invalid,
    post,
    refusal,
)
from tests.http.conftest import ALIAS, KONTEXT, TINY

HUGE = 10**400
OPTIONAL = (
    *("model", "mask", "n", "size", "response_format", "strength", "guidance_scale", "num_inference_steps", "seed"),
    *("stream", "partial_images", "output_format", "output_compression", "mask_mode", "priority"),
    *("quality", "background", "moderation", "user", "safety_identifier"),
)

ACCEPTED: tuple[Fields, ...] = (
    {"prompt": "x"},
    {"prompt": "x" * 32_000},
    {"prompt": "\U0001f3a8" * 32_000},
    {"model": TINY},
    {"model": ALIAS},
    {"model": KONTEXT},
    {"images": [{"image_url": f"data:image/png;base64,{SOURCE}"}]},
    {"n": 1},
    {"n": 10},
    {"size": "256x256"},
    {"size": "512x512"},
    {"size": "1024x1024"},
    {"size": "auto"},
    {"response_format": "b64_json"},
    {"strength": 0.0},
    {"strength": 1, "num_inference_steps": 1},
    {"strength": 1.0, "num_inference_steps": 1},
    {"guidance_scale": 0},
    {"guidance_scale": 0.0},
    {"guidance_scale": 20.0},
    {"num_inference_steps": 1},
    {"num_inference_steps": 100},
    {"seed": -(2**63)},
    {"seed": 2**64 - 1},
    {"stream": False},
    {"partial_images": 0},
    {"output_format": "png", "output_compression": 100},
    {"output_format": "jpeg", "output_compression": 0},
    {"output_format": "webp", "output_compression": 100},
    {"mask_mode": "luma"},
    {"mask_mode": "alpha"},
    {"mask_mode": "auto"},
    {"priority": "low"},
    {"priority": "normal"},
    {"priority": "high"},
    {"quality": "auto", "background": "auto", "moderation": "auto"},
    {"background": "opaque"},
    {"user": "somebody"},
    {"user": ""},
    {"safety_identifier": "somebody"},
)

REFUSED: tuple[tuple[Fields, str, str], ...] = (
    ({"images": ABSENT}, "missing_required_parameter", "images"),
    ({"images": None}, "missing_required_parameter", "images"),
    ({"images": SOURCE}, "invalid_type", "images"),
    ({"images": {"image_url": SOURCE}}, "invalid_type", "images"),
    ({"images": []}, "invalid_value", "images"),
    ({"images": [SOURCE] * 11}, "too_many_images", "images"),
    ({"images": [1]}, "invalid_type", "images[0]"),
    ({"images": [SOURCE, None]}, "invalid_type", "images[1]"),
    ({"images": [{}]}, "missing_required_parameter", "images[0].image_url"),
    ({"images": [{"image_url": 1}]}, "invalid_type", "images[0].image_url"),
    ({"images": [{"image_url": "http://example.com/a.png"}]}, "invalid_value", "images[0].image_url"),
    ({"images": [{"image_url": f"data:image/png;base64,{SOURCE}", "x": 1}]}, "unknown_parameter", "images[0].x"),
    ({"prompt": ABSENT}, "missing_required_parameter", "prompt"),
    ({"prompt": None}, "missing_required_parameter", "prompt"),
    ({"prompt": ["x"]}, "invalid_type", "prompt"),
    ({"prompt": ""}, "invalid_value", "prompt"),
    ({"prompt": " \t\n\u3000"}, "invalid_value", "prompt"),
    ({"prompt": "x" * 32_001}, "invalid_value", "prompt"),
    ({"model": 1}, "invalid_type", "model"),
    ({"model": ""}, "invalid_value", "model"),
    ({"mask": 1}, "invalid_type", "mask"),
    ({"mask": [SOURCE]}, "invalid_type", "mask"),
    ({"n": 0}, "invalid_value", "n"),
    ({"n": 11}, "invalid_value", "n"),
    ({"n": -HUGE}, "invalid_value", "n"),
    ({"n": "1"}, "invalid_type", "n"),
    ({"n": True}, "invalid_type", "n"),
    ({"n": 1.0}, "invalid_type", "n"),
    ({"size": "128x128"}, "invalid_value", "size"),
    ({"size": "1024X1024"}, "invalid_value", "size"),
    ({"size": 256}, "invalid_type", "size"),
    ({"response_format": "file"}, "invalid_value", "response_format"),
    ({"response_format": 1}, "invalid_type", "response_format"),
    ({"strength": -0.001}, "invalid_value", "strength"),
    ({"strength": 1.001}, "invalid_value", "strength"),
    ({"strength": "1"}, "invalid_type", "strength"),
    ({"strength": True}, "invalid_type", "strength"),
    ({"guidance_scale": -0.001}, "invalid_value", "guidance_scale"),
    ({"guidance_scale": 20.001}, "invalid_value", "guidance_scale"),
    ({"guidance_scale": [1]}, "invalid_type", "guidance_scale"),
    ({"num_inference_steps": 0}, "invalid_value", "num_inference_steps"),
    ({"num_inference_steps": 101}, "invalid_value", "num_inference_steps"),
    ({"num_inference_steps": 8.0}, "invalid_type", "num_inference_steps"),
    ({"num_inference_steps": "8"}, "invalid_type", "num_inference_steps"),
    ({"num_inference_steps": True}, "invalid_type", "num_inference_steps"),
    ({"seed": -(2**63) - 1}, "invalid_value", "seed"),
    ({"seed": 2**64}, "invalid_value", "seed"),
    ({"seed": HUGE}, "invalid_value", "seed"),
    ({"seed": 7.0}, "invalid_type", "seed"),
    ({"seed": "7"}, "invalid_type", "seed"),
    ({"seed": False}, "invalid_type", "seed"),
    ({"stream": True, "response_format": "url"}, "invalid_value", "response_format"),
    ({"stream": "true"}, "invalid_type", "stream"),
    ({"stream": 1}, "invalid_type", "stream"),
    ({"partial_images": 1}, "invalid_value", "partial_images"),
    ({"partial_images": 4}, "invalid_value", "partial_images"),
    ({"partial_images": -1}, "invalid_value", "partial_images"),
    ({"partial_images": False}, "invalid_type", "partial_images"),
    ({"output_format": "gif"}, "invalid_value", "output_format"),
    ({"output_format": 1}, "invalid_type", "output_format"),
    ({"output_format": "jpeg", "output_compression": -1}, "invalid_value", "output_compression"),
    ({"output_format": "webp", "output_compression": 101}, "invalid_value", "output_compression"),
    ({"output_format": "png", "output_compression": 50}, "invalid_value", "output_compression"),
    ({"output_format": "jpeg", "output_compression": 50.0}, "invalid_type", "output_compression"),
    ({"mask_mode": "red"}, "invalid_value", "mask_mode"),
    ({"mask_mode": 1}, "invalid_type", "mask_mode"),
    ({"priority": "urgent"}, "invalid_value", "priority"),
    ({"priority": 0}, "invalid_type", "priority"),
    ({"quality": "high"}, "unsupported_parameter", "quality"),
    ({"quality": 1}, "invalid_type", "quality"),
    ({"background": "transparent"}, "unsupported_parameter", "background"),
    ({"background": True}, "invalid_type", "background"),
    ({"moderation": "low"}, "unsupported_parameter", "moderation"),
    ({"moderation": 0}, "invalid_type", "moderation"),
    ({"user": 1}, "invalid_type", "user"),
    ({"user": "u" * 513}, "invalid_value", "user"),
    ({"safety_identifier": {}}, "invalid_type", "safety_identifier"),
    ({"safety_identifier": "s" * 513}, "invalid_value", "safety_identifier"),
    ({"sizes": "256x256"}, "unknown_parameter", "sizes"),
    ({"image": SOURCE}, "unknown_parameter", "image"),
)


def _shown(fields: Fields) -> str:
    return " ".join(f"{name}={'absent' if value is ABSENT else repr(value)}"[:40] for name, value in fields.items())


@pytest.mark.parametrize("fields", ACCEPTED, ids=_shown)
def test_a_value_within_its_bounds_is_accepted(http: httpx.Client, fields: Fields) -> None:
    if fields.get("mask_mode"):
        fields = {**fields, "mask": _mask_for(fields["mask_mode"])}
    assert len(files(post(http, canvas_request(**fields)))) == fields.get("n", 1)


@pytest.mark.parametrize(("fields", "code", "param"), REFUSED, ids=[_shown(row[0]) for row in REFUSED])
def test_a_value_beyond_its_bounds_is_refused_by_name(
    http: httpx.Client, fields: Fields, code: str, param: str
) -> None:
    body = json.dumps(canvas_request(**fields))
    assert refusal(http.post(EDITS, content=body, headers=JSON)) == invalid(code, param)


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_explicit_null_means_absent(http: httpx.Client, name: str) -> None:
    fields: Fields = {"seed": 7, "num_inference_steps": 1}
    with_null = post(http, canvas_request(**{**fields, name: None}))
    absent = post(http, canvas_request(**{**fields, name: ABSENT}))
    assert with_null.status_code == 200
    assert _lasting(with_null.json()) == _lasting(absent.json())


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("name", ["strength", "guidance_scale", "n", "seed"])
def test_a_number_that_json_does_not_have_is_refused(http: httpx.Client, name: str, literal: str) -> None:
    body = json.dumps(canvas_request(**{name: "?"})).replace('"?"', literal)
    status, kind, code, _ = refusal(http.post(EDITS, content=body, headers=JSON))
    assert (status, kind) == (400, "invalid_request_error")
    assert code in ("invalid_json", "invalid_type", "invalid_value")


def test_a_number_too_large_for_a_double_is_refused(http: httpx.Client) -> None:
    body = json.dumps(canvas_request(strength="?")).replace('"?"', "1e999")
    assert refusal(http.post(EDITS, content=body, headers=JSON)) == invalid("invalid_value", "strength")


@pytest.mark.parametrize("name", ["gpt-image-1", "RETOUCH-TINY", "x" * 1_000_000, " retouch-tiny", "../tiny", "\0"])
def test_a_model_that_is_not_served_is_not_found(http: httpx.Client, name: str) -> None:
    found = refusal(post(http, canvas_request(model=name)))
    assert found == (404, "not_found_error", "model_not_found", "model")


@pytest.mark.parametrize("body", ["[]", "null", '"images"', "1", "true"])
def test_a_body_that_is_no_object_is_refused(http: httpx.Client, body: str) -> None:
    assert refusal(http.post(EDITS, content=body, headers=JSON)) == invalid("invalid_type", None)


@pytest.mark.parametrize("body", [b"", b"{", b"{} {}", b"images=1", b"\xff\xfe{\0}\0", b'{"prompt": "\xff"}', b"\0"])
def test_a_body_that_is_no_json_is_refused(http: httpx.Client, body: bytes) -> None:
    assert refusal(http.post(EDITS, content=body, headers=JSON)) == invalid("invalid_json", None)


def test_a_body_nested_too_deep_is_refused(http: httpx.Client) -> None:
    nested = b"[" * 1000 + b"]" * 1000
    body = b'{"prompt": ' + nested + b"}"
    assert refusal(http.post(EDITS, content=body, headers=JSON)) == invalid("invalid_json", None)


def test_the_message_says_what_was_found_and_what_is_allowed(http: httpx.Client) -> None:
    message = post(http, canvas_request(n=11)).json()["error"]["message"]
    assert "11" in message
    assert "1 to 10" in message


def _mask_for(mode: str) -> str:
    return pictures.base64_of(pictures.alpha_mask(SOURCE_SIZE) if mode == "alpha" else pictures.mask(SOURCE_SIZE))


def _lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without its time, and without its links and drawn seeds, which differ from request to request."""
    return {**answer, "created": 0, "data": [item.get("b64_json") for item in answer["data"]]}
