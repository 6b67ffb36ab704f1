"""The official client of OpenAI against this server, in its JSON form."""

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.http.api import draw, drawing_request, pixels
from tests.http.conftest import ALIAS, KONTEXT, TINY, Server
from tests.http.test_queue import Stats, begin_long_edit
from tests.http.wire import Wire

JSON_FORM = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def _edit(client: openai.OpenAI, **fields: Any) -> Any:
    body = drawing_request(**fields)
    prompt = body.pop("prompt")
    return client.images.edit(image=[], prompt=prompt, extra_headers=JSON_FORM, extra_body=body)


def test_the_client_lists_the_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [TINY, KONTEXT]
    assert {model.object for model in models} == {"model"}


@pytest.mark.parametrize(("name", "model"), [(TINY, TINY), (ALIAS, TINY), ("acme/kontext", KONTEXT)])
def test_the_client_retrieves_a_model(client: openai.OpenAI, name: str, model: str) -> None:
    assert client.models.retrieve(name).id == model


def test_the_client_edits(client: openai.OpenAI, http: Any) -> None:
    response = _edit(client, n=2)
    found = [base64.b64decode(item.b64_json) for item in response.data]
    assert found == draw(http, n=2)
    assert (response.size, response.output_format) == ("256x256", "png")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_the_client_gets_links(client: openai.OpenAI, http: Any) -> None:
    (item,) = _edit(client, response_format="url").data
    assert pixels(http.get(item.url).content).shape == (256, 256, 3)


def test_the_client_reads_our_raw_headers(client: openai.OpenAI) -> None:
    body = drawing_request()
    prompt = body.pop("prompt")
    raw = client.images.with_raw_response.edit(
        image=[], prompt=prompt, extra_headers={**JSON_FORM, "x-request-id": "mine"}, extra_body=body
    )
    assert raw.headers["x-request-id"] == "mine"
    assert "denoise" in raw.headers["server-timing"]
    assert int(raw.headers["x-queue-position"]) >= 0


def test_the_clients_timeout_is_the_time_that_its_edit_may_take(
    client: openai.OpenAI, server: Server, engine_stats: Stats
) -> None:
    long = {"num_inference_steps": 100, "size": "512x512", "n": 5}
    with Wire(server.url) as wire:
        begin_long_edit(wire, engine_stats)
        with pytest.raises(openai.RateLimitError) as raised:
            _edit(client.with_options(timeout=4.0), **long)
    assert raised.value.code == "server_overloaded"
    assert int(raised.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"n": 11}, openai.BadRequestError, "invalid_value", "n"),
        ({"sead": 7}, openai.BadRequestError, "unknown_parameter", "sead"),
        ({"images": ["?"]}, openai.BadRequestError, "invalid_base64", "images[0]"),
        ({"stream": True}, openai.BadRequestError, "unsupported_parameter", "stream"),
        ({"model": "nothing"}, openai.NotFoundError, "model_not_found", "model"),
    ],
)
def test_the_clients_errors_carry_ours(
    client: openai.OpenAI, fields: dict[str, Any], kind: type[openai.APIStatusError], code: str, param: str
) -> None:
    with pytest.raises(kind) as raised:
        _edit(client, **fields)
    assert (raised.value.code, raised.value.param) == (code, param)
    assert raised.value.body is not None
    assert str(raised.value.body["message"]) in str(raised.value)  # pyright: ignore[reportIndexIssue]
    assert raised.value.request_id


def test_the_clients_multipart_form_is_refused_in_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="application/json") as raised:
        client.images.edit(image=b"\x89PNG", prompt="make it red")
    assert (raised.value.status_code, raised.value.code) == (415, "unsupported_media_type")
