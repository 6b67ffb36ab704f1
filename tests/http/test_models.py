"""The other routes: models, health, and the API's own description."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.deployments.runbook import KEY_HEADER
from serve.deployments.streams import PROGRESS_HEADER
from serve.schema import request_schema
from tests import pictures
from tests.http.api import EDITS, Fields, canvas_request, drawing_request, post, refusal
from tests.http.conftest import ALIAS, KONTEXT, TINY, Server
from tests.http.test_fields import ACCEPTED, REFUSED
from tests.http.wire import Wire
from tests.unit.test_errors import CONTRACT


def _a_schema_can_say(refused: Fields) -> bool:
    """Not that 1.0 is no integer."""
    return not any(isinstance(value, float) and value.is_integer() for value in refused.values())


def test_models_are_listed_in_openais_shape(http: httpx.Client) -> None:
    answer = http.get("/v1/models").json()
    assert set(answer) == {"object", "data"}
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == [TINY, KONTEXT]
    for model in answer["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert isinstance(model["owned_by"], str)


@pytest.mark.parametrize(
    ("name", "model"),
    [(TINY, TINY), (ALIAS, TINY), (KONTEXT, KONTEXT), ("acme/kontext", KONTEXT), ("acme%2Fkontext", KONTEXT)],
)
def test_a_model_is_found_by_its_id_and_its_aliases(http: httpx.Client, name: str, model: str) -> None:
    answer = http.get(f"/v1/models/{name}")
    assert answer.status_code == 200
    assert answer.json() in http.get("/v1/models").json()["data"]
    assert answer.json()["id"] == model


@pytest.mark.parametrize("name", ["nothing", "retouch-tiny/", "RETOUCH-TINY", "%00", "..", "x" * 5000])
def test_a_model_that_is_not_served_is_not_found(server: Server, name: str) -> None:
    with Wire(server.url) as wire:
        assert refusal(wire.get(f"/v1/models/{name}")) == (404, "not_found_error", "model_not_found", "model")


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_a_model_tells_its_sizes_defaults_and_fields(http: httpx.Client, model: str) -> None:
    told = http.get(f"/v1/models/{model}").json()
    assert told["sizes"] == ["256x256", "512x512", "1024x1024", "auto"]
    assert set(told["defaults"]) == {"num_inference_steps", "strength", "guidance_scale"}
    assert {"images", "prompt", "mask", "seed", "priority", "stream", "partial_images"} <= set(told["fields"])
    runs = {TINY: ("openvino", "bfloat16"), KONTEXT: ("torch", "float32")}
    assert (told["backend"], told["precision"]) == runs[model]


NEEDED: dict[str, Fields] = {
    "output_compression": {"output_format": "jpeg"},
    "partial_images": {"stream": True},
    "strength": {"num_inference_steps": 1},
}
"""Beside a field, for all of its range to be accepted and quick."""


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_the_ranges_that_a_model_tells_are_those_it_keeps(http: httpx.Client, model: str) -> None:
    told = http.get(f"/v1/models/{model}").json()
    for name, span in told["ranges"].items():
        for bound, beyond in ((span["min"], span["min"] - 1), (span["max"], span["max"] + 1)):
            with_it = NEEDED.get(name, {})
            assert post(http, canvas_request(model=model, **{**with_it, name: bound})).status_code == 200
            status, _, code, param = refusal(post(http, canvas_request(model=model, **{**with_it, name: beyond})))
            assert (status, code, param) == (400, "invalid_value", name)


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_a_model_takes_as_many_images_as_it_tells(http: httpx.Client, model: str) -> None:
    most = http.get(f"/v1/models/{model}").json()["max_images"]
    small = pictures.base64_of(pictures.rgb((16, 16)))
    assert post(http, canvas_request(model=model, images=[small] * most)).status_code == 200
    assert post(http, canvas_request(model=model, images=[small] * (most + 1))).status_code == 400


@pytest.mark.parametrize(("path", "answer"), [("/healthz", {"status": "ok"}), ("/readyz", {"status": "ready"})])
def test_a_server_that_runs_says_so(http: httpx.Client, path: str, answer: dict[str, str]) -> None:
    response = http.get(path)
    assert (response.status_code, response.json()) == (200, answer)


def test_the_documentation_is_a_page(http: httpx.Client) -> None:
    response = http.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")


def test_openapi_holds_the_schema_that_the_server_checks_by(http: httpx.Client) -> None:
    assert _published_schema(http) == request_schema()


@pytest.mark.parametrize("fields", ACCEPTED, ids=str)
def test_the_published_schema_takes_what_the_server_takes(http: httpx.Client, fields: Fields) -> None:
    jsonschema.validate(canvas_request(**fields), _published_schema(http))


@pytest.mark.parametrize("fields", [row[0] for row in REFUSED if _a_schema_can_say(row[0])], ids=str)
def test_the_published_schema_refuses_what_the_server_refuses(http: httpx.Client, fields: Fields) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(canvas_request(**fields), _published_schema(http))


@pytest.mark.parametrize(
    ("path", "method", "body", "status"),
    [
        ("/v1/images/edits", "post", drawing_request(), 200),
        ("/v1/images/edits", "post", drawing_request(response_format="url", n=2), 200),
        ("/v1/images/edits", "post", drawing_request(n=0), 400),
        ("/v1/images/edits", "post", drawing_request(model="nothing"), 404),
        ("/v1/models", "get", None, 200),
    ],
)
def test_an_answer_is_as_openapi_describes_it(
    http: httpx.Client, path: str, method: str, body: Fields | None, status: int
) -> None:
    document = http.get("/openapi.json").json()
    described = document["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
    response = http.request(method.upper(), path, json=body)
    assert response.status_code == status
    jsonschema.validate(response.json(), {**described, "components": document["components"]})


def test_openapi_describes_no_error_of_another_shape(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            answers = {status: answer for status, answer in operation["responses"].items() if status != "200"}
            assert {"408", "429", "500", "503"} <= set(answers) <= {str(status) for status, _, _ in CONTRACT.values()}
            for answer in answers.values():
                schema = answer["content"]["application/json"]["schema"]
                assert schema["$ref"] == "#/components/schemas/ErrorBody"


def test_openapi_tells_the_type_and_the_codes_of_every_error(http: httpx.Client) -> None:
    answers = http.get("/openapi.json").json()["paths"][EDITS]["post"]["responses"]
    for status, kind, code in CONTRACT.values():
        if status != 405:  # of no operation, since the method is none
            told = answers[str(status)]["content"]["application/json"]["schema"]["properties"]["error"]["properties"]
            assert kind in told["type"]["enum"]
            assert code in told["code"]["enum"]


def test_openapi_describes_every_header_of_an_edit(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()["paths"][EDITS]["post"]
    assert {one["name"] for one in described["parameters"] if one["in"] == "header"} == {
        *TIME_LIMIT_HEADERS,
        KEY_HEADER,
        PROGRESS_HEADER,
    }
    headers = described["responses"]["200"]["headers"]
    answer = post(http, drawing_request()).headers
    limits = {f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "images")}
    queue = {"x-queue-position", "x-queue-seconds"}
    assert set(headers) == {"x-request-id", "server-timing", "idempotent-replayed", *queue, *limits}
    for name in ("x-queue-position", "x-queue-seconds"):
        jsonschema.validate(json.loads(answer[name]), headers[name]["schema"])


def test_the_example_in_openapi_is_a_request_that_works(http: httpx.Client) -> None:
    (example,) = _published_schema(http)["examples"]
    assert http.post(EDITS, json={**example, "num_inference_steps": 1}).status_code == 200


def _published_schema(http: httpx.Client) -> dict[str, Any]:
    document = http.get("/openapi.json").json()
    return document["paths"][EDITS]["post"]["requestBody"]["content"]["application/json"]["schema"]
