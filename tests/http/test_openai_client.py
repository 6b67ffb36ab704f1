"""The official client of OpenAI against this server: as it is, with forms and streams, and in its JSON form."""

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import pytest

from tests import pictures
from tests.http.api import SOURCE, draw, drawing_request, pixels
from tests.http.conftest import ALIAS, KONTEXT, TINY, Server
from tests.http.line import Line
from tests.http.test_queue import Stats, begin_long_edit
from tests.http.wire import Wire
from tests.waiting import eventually

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
        ({"partial_images": 2}, openai.BadRequestError, "invalid_value", "partial_images"),
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


# Forms


PNG = base64.b64decode(SOURCE)
FORM: Any = {"size": "256x256", "prompt": "make it red"}
EXTRA = {"seed": 7, "num_inference_steps": 1, "strength": 1}


def _sent(client: openai.OpenAI, image: Any, **fields: Any) -> list[bytes]:
    """As its users write it; what OpenAI's API does not know goes into `extra_body`."""
    extra = {**EXTRA, **fields.pop("extra", {})}
    edit: Any = client.images.edit
    answer = edit(image=image, **{**FORM, "response_format": "b64_json", **fields}, extra_body=extra)
    return [base64.b64decode(item.b64_json or "") for item in answer.data or ()]


def _open_file(folder: Path) -> Any:
    (folder / "photo.png").write_bytes(PNG)
    return (folder / "photo.png").open("rb")


@pytest.mark.parametrize(
    "image",
    [
        lambda folder: PNG,
        lambda folder: ("photo.png", PNG, "image/png"),
        lambda folder: [PNG],
        _open_file,
    ],
    ids=["bytes", "tuple", "list", "file"],
)
def test_the_client_sends_a_picture_in_any_of_its_forms(
    client: openai.OpenAI, http: Any, tmp_path: Path, image: Any
) -> None:
    assert _sent(client, image(tmp_path)) == draw(http)


def test_the_client_sends_several_pictures(client: openai.OpenAI, http: Any) -> None:
    other = pictures.rgb((300, 200))
    expected = draw(http, model=KONTEXT, images=[SOURCE, pictures.base64_of(other)])
    assert _sent(client, [PNG, other], model=KONTEXT) == expected


def test_the_client_sends_a_mask(client: openai.OpenAI, http: Any) -> None:
    mask = pictures.alpha_mask((256, 256))
    assert _sent(client, PNG, mask=mask) == draw(http, mask=pictures.base64_of(mask))


def test_the_client_asks_for_several_results_in_another_format(client: openai.OpenAI, http: Any) -> None:
    found = _sent(client, PNG, n=2, output_format="webp", output_compression=80)
    assert found == draw(http, n=2, output_format="webp", output_compression=80)


def test_the_client_gets_links_by_default(client: openai.OpenAI, http: Any) -> None:
    (item,) = client.images.edit(image=PNG, **FORM, extra_body=EXTRA).data or []
    assert item.url
    assert http.get(item.url).content == draw(http)[0]


def test_what_the_client_leaves_out_is_absent(client: openai.OpenAI, http: Any) -> None:
    assert _sent(client, PNG, mask=openai.omit, extra={"guidance_scale": None, "user": None}) == draw(http)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"n": 11}, "invalid_value", "n"),
        ({"size": "300x300"}, "invalid_value", "size"),
        ({"extra": {"sead": 7}}, "unknown_parameter", "sead"),
        ({"image": b"GIF89a"}, "unsupported_image_format", "images[0]"),
        ({"image": bytes(5 * 2**20)}, "image_too_large", "images[0]"),
        ({"mask": pictures.mask((8, 8))}, "mask_size_mismatch", "mask"),
    ],
)
def test_the_client_shows_what_is_wrong_with_a_form(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        _sent(client, fields.pop("image", PNG), **fields)
    assert (raised.value.code, raised.value.param) == (code, param)
    assert param in str(raised.value)


# Streams


def test_the_client_streams_previews_and_the_result(client: openai.OpenAI, http: Any) -> None:
    extra = {**EXTRA, "num_inference_steps": 4}
    stream = client.images.edit(image=PNG, **FORM, stream=True, partial_images=2, extra_body=extra)
    *partial, completed = list(stream)
    assert [event.partial_image_index for event in partial if event.type == "image_edit.partial_image"] == [0, 1]
    assert completed.type == "image_edit.completed"
    assert [base64.b64decode(completed.b64_json)] == draw(http, num_inference_steps=4)
    assert completed.usage.total_tokens == completed.usage.input_tokens + completed.usage.output_tokens
    assert (completed.size, completed.background, completed.quality) == ("256x256", "opaque", "auto")


def test_the_client_raises_what_a_stream_is_refused_with(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=b"GIF89a", **FORM, stream=True)
    assert raised.value.code == "unsupported_image_format"


async def test_the_asynchronous_client_edits_and_streams(server: Server, http: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        answer = await client.images.edit(image=PNG, **FORM, response_format="b64_json", extra_body=EXTRA)
        stream = await client.images.edit(image=PNG, **FORM, stream=True, extra_body=EXTRA)
        events = [event async for event in stream]
    expected = draw(http)
    assert [base64.b64decode(item.b64_json or "") for item in answer.data or ()] == expected
    assert [base64.b64decode(event.b64_json) for event in events] == expected


# Retries, as the client makes them by itself


class _Try:
    """One of the client's requests. retry_after_s: that its answer told; 0 where it told none, or there was none."""

    def __init__(self, request: Any) -> None:
        self.number = request.headers["x-stainless-retry-count"]
        self.sent_s = time.monotonic()
        self.retry_after_s = 0


def _retrying(url: str) -> tuple[openai.OpenAI, list[_Try]]:
    """A client as its users have it, and what it tries."""
    tries = list[_Try]()

    def answered(response: Any) -> None:
        tries[-1].retry_after_s = int(response.headers.get("retry-after", 0))

    hooks = {"request": [lambda request: tries.append(_Try(request))], "response": [answered]}
    by = openai.DefaultHttpxClient(event_hooks=hooks)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", http_client=by), tries


def test_the_clients_retry_after_a_broken_connection_gets_the_run_that_is_under_way(
    server: Server, engine_stats: Stats
) -> None:
    before, extra = engine_stats(TINY).row_steps, {**EXTRA, "num_inference_steps": 60}
    with Line(server.url) as line, ThreadPoolExecutor(1) as threads:
        client, tries = _retrying(line.url)
        edit: Any = client.images.with_raw_response.edit
        answer = threads.submit(edit, image=PNG, **FORM, extra_body=extra)
        eventually(lambda: engine_stats(TINY).row_steps > before)
        line.cut()
        raw = answer.result()
    assert raw.headers["idempotent-replayed"] == "true"
    assert len(raw.parse().data) == 1
    assert [one.number for one in tries] == ["0", "1"]
    assert engine_stats(TINY).row_steps - before == 60


def test_the_client_comes_again_when_it_is_told_to(server: Server, engine_stats: Stats) -> None:
    """The queue is full at first."""
    client, tries = _retrying(server.url)
    before = engine_stats(TINY).row_steps
    with Wire(server.url) as wire:
        wire.send_edit(drawing_request(n=10, num_inference_steps=30))
        eventually(lambda: engine_stats(TINY).row_steps > before)
        assert len(client.images.edit(image=PNG, **FORM, n=10, extra_body=EXTRA).data or ()) == 10
    first, second, *_ = tries
    assert first.retry_after_s >= 1
    assert second.sent_s - first.sent_s >= first.retry_after_s


def test_the_client_tries_nothing_again_that_cannot_succeed(server: Server) -> None:
    client, tries = _retrying(server.url)
    key = {"Idempotency-Key": uuid4().hex}
    edit: Any = client.images.edit
    assert edit(image=PNG, **FORM, extra_body=EXTRA, extra_headers=key).data
    with pytest.raises(openai.ConflictError) as raised:
        edit(image=PNG, **FORM, n=2, extra_body=EXTRA, extra_headers=key)
    assert raised.value.code == "idempotency_key_reused"
    with pytest.raises(openai.BadRequestError):
        edit(image=PNG, **FORM, n=11, extra_body=EXTRA)
    assert len(tries) == 3


def test_a_stream_with_a_key_that_broke_off_is_taken_up_again(server: Server, engine_stats: Stats) -> None:
    before, extra = engine_stats(TINY).row_steps, {"num_inference_steps": 60, "strength": 1}
    key: Any = {"extra_headers": {"Idempotency-Key": uuid4().hex}, "stream": True, "partial_images": 3}
    with Line(server.url) as line:
        client, _ = _retrying(line.url)
        first = iter(client.images.edit(image=PNG, **FORM, **key, extra_body=extra))
        assert next(first).type == "image_edit.partial_image"
        line.cut()
        with pytest.raises(openai.APIConnectionError):
            list(first)
        *_, last = client.images.edit(image=PNG, **FORM, **key, extra_body=extra)
    assert last.type == "image_edit.completed"
    assert engine_stats(TINY).row_steps - before == 60
