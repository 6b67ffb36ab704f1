"""What a request body may hold, how each wrong one is refused, and that the published schema says the same."""

import base64
import io
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.validators import extend
from openai.types import Model
from PIL import Image

from serve.deployments.listing import listed
from serve.errors import EditError, InvalidRequest, Overloaded
from serve.schema import (
    EditRequest,
    EditResponse,
    ErrorBody,
    ImageItem,
    ModelBody,
    ModelList,
    TokenUsage,
    parse,
    request_schema,
)
from serve.settings import ModelSettings, SimulatedSettings
from serve.types import ModelFacts, Usage

OPTIONAL_DEFAULTS = {
    "model": None,
    "mask": None,
    "n": 1,
    "size": "1024x1024",
    "response_format": "url",
    "strength": None,
    "guidance_scale": None,
    "num_inference_steps": None,
    "seed": None,
    "stream": False,
    "partial_images": 0,
    "output_format": "png",
    "output_compression": 100,
    "mask_mode": "auto",
    "priority": "normal",
    "quality": "auto",
    "background": "auto",
    "moderation": "auto",
    "user": None,
    "safety_identifier": None,
}
SMALLEST = {"images": ["aGk="], "prompt": "make it blue"}


def body(**fields: Any) -> bytes:
    return json.dumps({**SMALLEST, **fields}).encode()


def refused(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    error = caught.value
    assert len(error.message) < 600
    assert not any(jargon in error.message for jargon in ("Input should", "Value error", "validation", "pydantic"))
    return error


def code_and_param(raw: bytes) -> tuple[str, str | None]:
    error = refused(raw)
    return error.code, error.param


def test_a_request_of_two_fields_takes_the_contracts_defaults():
    assert parse(body()).model_dump() == {**SMALLEST, **OPTIONAL_DEFAULTS, "response_format": None}
    assert parse(body()).by_url


def test_every_field_arrives_as_it_was_sent():
    sent = {
        "images": ["aGk=", "eW8="],
        "prompt": "🎨 paint",
        "model": "m",
        "mask": "bWFzaw==",
        "n": 10,
        "size": "auto",
        "response_format": "b64_json",
        "strength": 0.25,
        "guidance_scale": 20,
        "num_inference_steps": 100,
        "seed": 2**64 - 1,
        "stream": True,
        "partial_images": 3,
        "output_format": "webp",
        "output_compression": 0,
        "mask_mode": "luma",
        "priority": "high",
        "quality": "auto",
        "background": "opaque",
        "moderation": "auto",
        "user": "u",
        "safety_identifier": "s",
    }
    assert parse(json.dumps(sent).encode()).model_dump() == sent


@pytest.mark.parametrize("field", OPTIONAL_DEFAULTS)
def test_an_explicit_null_means_absent(field: str):
    assert parse(body(**{field: None})) == parse(body())
    streams = {} if field == "stream" else {"stream": True}
    assert parse(body(**streams, **{field: None})) == parse(body(**streams))


def test_an_image_may_come_in_openais_object_form():
    request = parse(body(images=["aGk=", {"image_url": "data:image/png;base64,aGk="}]))
    assert request.images == ["aGk=", "data:image/png;base64,aGk="]


def test_the_last_of_two_equal_keys_counts():
    assert parse(b'{"images": ["aGk="], "prompt": "a", "n": 99, "n": 2, "prompt": "b"}').n == 2


@pytest.mark.parametrize("seed", [-(2**63), 0, 2**64 - 1])
def test_a_seed_may_be_any_signed_or_unsigned_64_bit_number(seed: int):
    assert parse(body(seed=seed)).seed == seed


def test_a_prompt_is_counted_in_characters_and_not_in_bytes():
    assert len(parse(body(prompt="🎨" * 32_000)).prompt) == 32_000
    assert code_and_param(body(prompt="🎨" * 32_001)) == ("invalid_value", "prompt")


@pytest.mark.parametrize("field", ["user", "safety_identifier"])
def test_whom_a_caller_works_for_is_told_in_up_to_512_characters(field: str):
    assert getattr(parse(body(**{field: "🎨" * 512})), field) == "🎨" * 512


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"images": None}, "missing_required_parameter", "images"),
        ({"prompt": None}, "missing_required_parameter", "prompt"),
        ({"images": []}, "invalid_value", "images"),
        ({"images": ["aGk="] * 11}, "too_many_images", "images"),
        ({"images": [7] * 11}, "too_many_images", "images"),
        ({"images": "aGk="}, "invalid_type", "images"),
        ({"images": {"0": "aGk="}}, "invalid_type", "images"),
        ({"images": ["aGk=", "aGk=", 7]}, "invalid_type", "images[2]"),
        ({"images": [None]}, "invalid_type", "images[0]"),
        ({"images": [["aGk="]]}, "invalid_type", "images[0]"),
        ({"images": [{}]}, "missing_required_parameter", "images[0].image_url"),
        ({"images": [{"image_url": None}]}, "missing_required_parameter", "images[0].image_url"),
        ({"images": [{"image_url": 7}]}, "invalid_type", "images[0].image_url"),
        ({"images": [{"image_url": "http://a.example/b.png"}]}, "invalid_value", "images[0].image_url"),
        ({"images": ["a", {"image_url": "data:,", "foo": 1}]}, "unknown_parameter", "images[1].foo"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": " \t\n\u2003\u001c\u001f\u0085\ufeff"}, "invalid_value", "prompt"),
        ({"prompt": 7}, "invalid_type", "prompt"),
        ({"model": ""}, "invalid_value", "model"),
        ({"mask": {"image_url": "data:,"}}, "invalid_type", "mask"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 11}, "invalid_value", "n"),
        ({"n": "1"}, "invalid_type", "n"),
        ({"n": 1.0}, "invalid_type", "n"),
        ({"n": True}, "invalid_type", "n"),
        ({"size": "300x300"}, "invalid_value", "size"),
        ({"size": 512}, "invalid_type", "size"),
        ({"size": ["512x512"]}, "invalid_type", "size"),
        ({"response_format": "URL"}, "invalid_value", "response_format"),
        ({"strength": 1.0001}, "invalid_value", "strength"),
        ({"strength": -0.1}, "invalid_value", "strength"),
        ({"strength": True}, "invalid_type", "strength"),
        ({"strength": "0.5"}, "invalid_type", "strength"),
        ({"guidance_scale": 20.5}, "invalid_value", "guidance_scale"),
        ({"guidance_scale": float("nan")}, "invalid_value", "guidance_scale"),
        ({"guidance_scale": float("inf")}, "invalid_value", "guidance_scale"),
        ({"num_inference_steps": 101}, "invalid_value", "num_inference_steps"),
        ({"seed": 2**64}, "invalid_value", "seed"),
        ({"seed": -(2**63) - 1}, "invalid_value", "seed"),
        ({"seed": 1e3}, "invalid_type", "seed"),
        ({"stream": True, "response_format": "url"}, "invalid_value", "response_format"),
        ({"stream": 1}, "invalid_type", "stream"),
        ({"partial_images": 3}, "invalid_value", "partial_images"),
        ({"partial_images": 3, "stream": False}, "invalid_value", "partial_images"),
        ({"partial_images": 4}, "invalid_value", "partial_images"),
        ({"output_format": "gif"}, "invalid_value", "output_format"),
        ({"output_compression": 99}, "invalid_value", "output_compression"),
        ({"output_format": "jpeg", "output_compression": 101}, "invalid_value", "output_compression"),
        ({"mask_mode": "Luma"}, "invalid_value", "mask_mode"),
        ({"priority": "urgent"}, "invalid_value", "priority"),
        ({"priority": 1}, "invalid_type", "priority"),
        ({"user": 7}, "invalid_type", "user"),
        ({"user": "u" * 513}, "invalid_value", "user"),
        ({"safety_identifier": "🎨" * 513}, "invalid_value", "safety_identifier"),
        ({"steps": 3}, "unknown_parameter", "steps"),
        ({"": 3}, "unknown_parameter", ""),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], code: str, param: str):
    assert code_and_param(body(**fields)) == (code, param)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"   ", "invalid_json"),
        (b"prompt=x", "invalid_json"),
        (b"[" * 100_000, "invalid_value"),
        (b"[" * 40_000, "invalid_json"),
        (b'{"a":' * 40_000, "invalid_json"),
        (b'{"images": ["aGk="], "prompt": "a"} x', "invalid_json"),
        (b'{"images": ["aGk="], "prompt": "a"', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"prompt": "\xff"}', "invalid_json"),
        (json.dumps(SMALLEST).encode("utf-16"), "invalid_json"),
        (b'{"images": ["aGk="], "prompt": "\\ud800"}', "invalid_json"),
        (b'{"images": ["aGk="], "prompt": "\\udc00 x"}', "invalid_json"),
        (b'{"images": ["aGk="], "prompt": "a", "seed": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"NaN", "invalid_type"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_as_a_whole(raw: bytes, code: str):
    assert code_and_param(raw) == (code, None)


def test_the_longest_integer_that_json_may_hold_is_refused_by_name():
    assert code_and_param(b'{"images": ["a"], "prompt": "a", "seed": ' + b"9" * 4300 + b"}")[1] == "seed"


def test_of_several_faults_an_unknown_field_is_told_first_then_a_missing_one_then_a_wrong_type():
    faults: dict[str, Any] = {"n": 11, "size": "1x1", "strength": "x", "prompt": None, "foo": 1}
    told: list[str | None] = []
    for mended in ({}, {"foo"}, {"foo", "prompt"}, {"foo", "prompt", "strength"}, {"foo", "prompt", "strength", "n"}):
        told.append(code_and_param(body(**{name: value for name, value in faults.items() if name not in mended}))[1])
    assert told == ["foo", "prompt", "strength", "n", "size"]


def test_a_body_of_many_thousand_unknown_fields_gets_one_short_answer():
    raw = json.dumps({f"field {i}": i for i in range(40_000)}).encode()
    assert code_and_param(raw) == ("unknown_parameter", None)


@pytest.mark.parametrize("filling", [b"[]", b"{}", b"1", b'"a"', b'{"a": 1}'])
def test_a_body_of_very_many_small_values_is_refused_before_it_is_parsed(filling: bytes):
    for raw in (b'{"x": [%s]}' % b",".join([filling] * 60_000), b'{"images": [%s]}' % b",".join([filling] * 60_000)):
        assert code_and_param(raw) == ("invalid_value", None)
        assert "50,000" in refused(raw).message


def test_a_prompt_may_consist_of_separators_alone():
    for separator in ",[{":
        assert parse(body(prompt=separator * 32_000)).prompt == separator * 32_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 11}, "n is the integer 11; it must be an integer from 1 to 10"),
        ({"n": "1"}, 'n is the string "1"; it must be an integer from 1 to 10'),
        ({"strength": 2}, "strength is the integer 2; it must be a number from 0.0 to 1.0"),
        ({"images": ["a"] * 11}, "images is an array of 11 items; it must be an array of 1 to 10 images"),
        ({"images": None}, "images is missing; it must be an array of 1 to 10 images"),
        ({"image": "aGk="}, "image is unknown; did you mean images?"),
        (
            {"prompt": "x" * 32_001},
            f'prompt is the string "{"x" * 40}…" (32,001 characters); it must be text of 1 to 32,000 characters',
        ),
        ({"size": "1x1"}, 'size is the string "1x1"; it must be one of "256x256", "512x512", "1024x1024", "auto"'),
        (
            {"user": "u" * 513},
            f'user is the string "{"u" * 40}…" (513 characters); it must be text of at most 512 characters',
        ),
        ({"user": 7}, "user is the integer 7; it must be text of at most 512 characters"),
        ({"model": ""}, 'model is the string ""; it must be text of at least 1 character'),
        ({"priority": 2}, 'priority is the integer 2; it must be one of "low", "normal", "high"'),
    ],
)
def test_a_message_says_what_was_found_and_what_is_allowed(fields: dict[str, Any], message: str):
    assert refused(body(**fields)).message == message


@given(st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=80))
def test_a_refusal_can_always_be_sent_as_utf_8(name: str):
    known = {*SMALLEST, *OPTIONAL_DEFAULTS}
    error = refused(body(**{name if name not in known else "other": 1}))
    assert json.loads(ErrorBody.of(error).model_dump_json().encode())["error"]["message"] == error.message


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE-+ntrufalse\\ud8imagesprompt', max_size=80))
def test_no_body_raises_anything_but_a_refusal(raw: bytes | str):
    refused(raw if isinstance(raw, bytes) else raw.encode())


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "images": st.lists(
        st.text(max_size=3)
        | st.fixed_dictionaries({"image_url": st.sampled_from(["data:,", "http:", None])}, optional={"x": ANY_JSON}),
        max_size=11,
    ),
    "prompt": st.text(max_size=4) | st.sampled_from([" ", "\u2003\n", "\u001f", "\u0085", "\ufeff", " a "]),
    "model": st.sampled_from(["", "m", None]),
    "mask": st.text(max_size=3),
    "n": st.integers(-1, 12),
    "size": st.sampled_from(["256x256", "512x512", "1024x1024", "auto", "1x1"]),
    "response_format": st.sampled_from(["url", "b64_json", "b64", None]),
    "strength": st.floats(-0.5, 1.5) | st.integers(-1, 2),
    "guidance_scale": st.floats(-1, 22) | st.integers(-1, 21),
    "num_inference_steps": st.integers(-1, 102),
    "seed": st.sampled_from([-(2**63) - 1, -(2**63), 0, 2**64 - 1, 2**64]),
    "stream": st.booleans() | st.none(),
    "partial_images": st.integers(-1, 4) | st.none(),
    "output_format": st.sampled_from(["png", "jpeg", "webp", "gif", None]),
    "output_compression": st.sampled_from([-1, 0, 50, 100, 101, None]),
    "mask_mode": st.sampled_from(["luma", "alpha", "auto", "x"]),
    "priority": st.sampled_from(["low", "normal", "high", "Low", "", None]),
    "quality": st.sampled_from(["auto", "high", "", None]),
    "background": st.sampled_from(["auto", "opaque", "transparent", None]),
    "moderation": st.sampled_from(["auto", "low", None]),
    "user": st.text(max_size=3) | st.sampled_from(["u" * 512, "🎨" * 512, "u" * 513]),
    "safety_identifier": st.text(max_size=3) | st.sampled_from(["u" * 512, "🎨" * 513]),
}
VALID: dict[str, st.SearchStrategy[Any]] = {
    "images": st.lists(st.text(max_size=3) | st.just({"image_url": "data:,"}), min_size=1, max_size=10),
    "prompt": st.just("a"),
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly right ones, with up to three fields that may be wrong, so that both verdicts are common."""
    values = {name: draw(VALID[name]) for name in VALID}
    for name in draw(st.lists(st.sampled_from([*LIKELY, "foo"]), max_size=3, unique=True)):
        kind = draw(st.sampled_from(["likely", "likely", "likely", "any", "absent"]))
        values[name] = draw(ANY_JSON if kind == "any" or name not in LIKELY else LIKELY[name])
        if kind == "absent":
            del values[name]
    return values


def published_verdict(values: dict[str, Any]) -> bool:
    """By the jsonschema library; 1.0 is no integer here, which JSON Schema itself cannot say."""
    kind = jsonschema.Draft202012Validator
    strict = kind.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    validator = extend(kind, type_checker=strict)(request_schema())
    return validator.is_valid(values)


def own_verdict(values: dict[str, Any]) -> bool:
    try:
        parse(json.dumps(values).encode())
    except EditError:
        return False
    return True


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(bodies())
def test_the_published_schema_accepts_exactly_what_the_server_accepts(values: dict[str, Any]):
    assert own_verdict(values) == published_verdict(values)


def test_the_published_schema_is_valid_closed_and_describes_every_field():
    schema = request_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "$ref" not in json.dumps(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(SMALLEST) | set(OPTIONAL_DEFAULTS)
    assert all(rule["description"] for rule in schema["properties"].values())
    assert {name: rule["default"] for name, rule in schema["properties"].items() if "default" in rule} == (
        OPTIONAL_DEFAULTS
    )


def test_the_published_example_can_be_sent():
    (example,) = request_schema()["examples"]
    request = parse(json.dumps(example).encode())
    with Image.open(io.BytesIO(base64.b64decode(request.images[0], validate=True))) as picture:
        picture.load()
        assert picture.format == "PNG"


def test_an_answer_holds_only_the_keys_that_apply():
    item = ImageItem(url="https://a.example/b", seed=7)
    answer = EditResponse(
        created=1, model="m", size="512x512", output_format="png", data=[item], usage=TokenUsage.of(Usage(3, 5, 7))
    )
    assert json.loads(answer.model_dump_json()) == {
        "created": 1,
        "model": "m",
        "size": "512x512",
        "output_format": "png",
        "data": [{"url": "https://a.example/b", "seed": 7}],
        "usage": {
            "input_tokens": 8,
            "output_tokens": 7,
            "total_tokens": 15,
            "input_tokens_details": {"text_tokens": 3, "image_tokens": 5},
        },
    }
    assert ImageItem(b64_json="aGk=", seed=7, revised_prompt="p").model_dump() == {
        "b64_json": "aGk=",
        "seed": 7,
        "revised_prompt": "p",
    }


@pytest.mark.parametrize("forms", [{}, {"url": "u", "b64_json": "b"}])
def test_a_result_holds_exactly_one_form(forms: dict[str, str]):
    with pytest.raises(ValueError, match="either url or b64_json"):
        ImageItem(seed=1, url=forms.get("url"), b64_json=forms.get("b64_json"))


def test_an_error_answer_has_all_four_keys():
    assert ErrorBody.of(Overloaded("too busy")).model_dump() == {
        "error": {"message": "too busy", "type": "rate_limit_error", "param": None, "code": "server_overloaded"}
    }


def facts(*, has_guidance: bool) -> ModelFacts:
    return ModelFacts(
        default_steps=8,
        default_strength=0.5,
        default_guidance=2.5,
        has_guidance=has_guidance,
        max_images=3,
        reference_pixels=0,
        draw_min=256,
        draw_max=1024,
        multiple=16,
    )


def listed_model(*, has_guidance: bool) -> ModelBody:
    return ModelBody.of(
        "tiny",
        family="pixel_edit",
        backend="torch",
        precision="float32",
        aliases=["t"],
        facts=facts(has_guidance=has_guidance),
        created=5,
    )


def test_a_model_is_listed_in_openais_shape_with_what_it_adds():
    listed = listed_model(has_guidance=True)
    assert ModelList(data=[listed]).model_dump()["object"] == "list"
    assert Model.model_validate(listed.model_dump(), strict=True).id == "tiny"
    assert (listed.family, listed.backend, listed.precision) == ("pixel_edit", "torch", "float32")
    assert listed.sizes == ["256x256", "512x512", "1024x1024", "auto"]
    assert listed.defaults.model_dump() == {"num_inference_steps": 8, "strength": 0.5, "guidance_scale": 2.5}
    assert {name: (span.min, span.max) for name, span in listed.ranges.items()} == {
        "n": (1, 10),
        "strength": (0, 1),
        "guidance_scale": (0, 20),
        "num_inference_steps": (1, 100),
        "seed": (-(2**63), 2**64 - 1),
        "partial_images": (0, 3),
        "output_compression": (0, 100),
    }


def test_only_a_model_on_a_simulated_device_says_which_one():
    model = ModelSettings(
        id="play", family="pixel_edit", weights="there", simulated=SimulatedSettings(timings="/my/own")
    )
    assert "simulated" not in listed(model, facts(has_guidance=True), created=5).model_dump()
    played = listed(model.model_copy(update={"backend": "simulated"}), facts(has_guidance=True), created=5)
    assert played.model_dump()["simulated"] == {"timings": "own", "speed": 1.0}


def test_a_model_lists_only_the_fields_that_it_honours():
    without = listed_model(has_guidance=False)
    assert set(EditRequest.model_fields) - set(without.fields) == {"guidance_scale"}
    assert "guidance_scale" not in without.ranges
