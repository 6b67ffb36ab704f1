"""Edits as server-sent events: what comes in which order, and what becomes of a stream that breaks off."""

import base64
import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from httpx_sse import connect_sse

from serve.engine.engine import EngineStats
from tests import pictures
from tests.http.api import (
    EDITS,
    OVERLOADED,
    SOURCE,
    Fields,
    canvas_request,
    draw,
    drawing_request,
    invalid,
    pixels,
    post,
    refusal,
)
from tests.http.conftest import KEEP_ALIVE_S, KONTEXT, TINY
from tests.http.test_life import Stats
from tests.waiting import eventually

PARTIAL, COMPLETED, PROGRESS = (f"image_edit.{name}" for name in ("partial_image", "completed", "progress"))
WATCHED = {"x-progress": "true"}


@dataclass(frozen=True)
class Event:
    """data: parsed. after_s: since the request was sent."""

    name: str
    data: dict[str, Any]
    after_s: float

    @property
    def file(self) -> bytes:
        return base64.b64decode(self.data["b64_json"], validate=True)


def arriving(http: httpx.Client, body: Fields, headers: dict[str, str] | None = None) -> Generator[Event]:
    started_s = time.monotonic()
    with connect_sse(http, "POST", EDITS, json=body, headers=headers or {}) as source:
        assert source.response.status_code == 200
        for sent in source.iter_sse():
            yield Event(sent.event, json.loads(sent.data), time.monotonic() - started_s)


def stream(http: httpx.Client, headers: dict[str, str] | None = None, **fields: Any) -> list[Event]:
    events = list(arriving(http, drawing_request(stream=True, **fields), headers))
    assert [event.data.get("type") for event in events] == [event.name for event in events]
    return events


def _names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_a_stream_ends_with_the_bytes_that_the_plain_answer_has(http: httpx.Client, model: str) -> None:
    plain = post(http, drawing_request(model=model)).json()
    (event,) = stream(http, model=model)
    assert event.name == COMPLETED
    assert event.file == base64.b64decode(plain["data"][0]["b64_json"])
    assert (event.data["seed"], event.data["usage"]) == (7, plain["usage"])
    assert (event.data["size"], event.data["output_format"]) == ("256x256", "png")
    assert (event.data["quality"], event.data["background"]) == ("auto", "opaque")
    assert abs(event.data["created_at"] - time.time()) < 60


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_previews_come_before_the_result_in_their_order_and_of_its_size(http: httpx.Client, model: str) -> None:
    events = stream(http, model=model, num_inference_steps=8, partial_images=3)
    assert _names(events) == [PARTIAL] * 3 + [COMPLETED]
    assert [event.data["partial_image_index"] for event in events[:3]] == [0, 1, 2]
    assert {pixels(event.file).shape for event in events} == {(256, 256, 3)}


def test_a_later_preview_is_nearer_to_the_result(http: httpx.Client) -> None:
    """Of the model that was trained, whose estimates of the clean picture sharpen as the noise goes."""
    events = stream(http, prompt="make it look like night", num_inference_steps=12, partial_images=3)
    result = pixels(events[-1].file).astype(float)
    errors = [np.abs(pixels(event.file) - result).mean() for event in events[:-1]]
    assert errors[0] > errors[2]
    source = pixels(base64.b64decode(SOURCE)).astype(float)
    assert errors[2] < np.abs(source - result).mean()


def test_a_short_run_has_fewer_previews_than_were_asked_for(http: httpx.Client) -> None:
    assert _names(stream(http, num_inference_steps=2, partial_images=3)) == [PARTIAL, COMPLETED]


def test_previews_keep_what_the_mask_keeps(http: httpx.Client) -> None:
    mask = pictures.mask((256, 256))
    kept = pictures.mask_array((256, 256)) == 0
    assert kept.any()
    source = pixels(base64.b64decode(SOURCE))
    for event in stream(http, mask=pictures.base64_of(mask), num_inference_steps=4, partial_images=1):
        np.testing.assert_array_equal(pixels(event.file)[kept], source[kept])


def test_each_image_of_several_has_its_previews_and_its_result(http: httpx.Client) -> None:
    events = stream(http, n=2, num_inference_steps=4, partial_images=1)
    assert sorted((event.name, event.data["image_index"]) for event in events) == [
        *((COMPLETED, image) for image in (0, 1)),
        *((PARTIAL, image) for image in (0, 1)),
    ]
    assert [event.file for event in events if event.name == COMPLETED] == draw(http, n=2, num_inference_steps=4)


def test_progress_comes_only_to_those_who_ask_for_it(http: httpx.Client) -> None:
    assert _names(stream(http, num_inference_steps=3)) == [COMPLETED]
    events = stream(http, WATCHED, num_inference_steps=3)
    assert _names(events) == [PROGRESS] * 3 + [COMPLETED]
    told = [(event.data["image_index"], event.data["step"], event.data["total"]) for event in events[:3]]
    assert told == [(0, 1, 3), (0, 2, 3), (0, 3, 3)]


def test_events_come_when_they_happen_and_not_all_at_the_end(http: httpx.Client) -> None:
    events = stream(http, WATCHED, num_inference_steps=40, size="512x512")
    assert events[0].after_s < 0.5 * events[-1].after_s


def test_a_stream_that_draws_nothing_answers_the_canvas(http: httpx.Client) -> None:
    (event,) = arriving(http, canvas_request(stream=True))
    assert [event.file] == draw(http, strength=0)


def test_a_stream_says_that_no_proxy_is_to_hold_it_back_and_where_it_stood(http: httpx.Client) -> None:
    headers = post(http, drawing_request(stream=True)).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
    assert int(headers["x-queue-position"]) >= 0
    assert float(headers["x-queue-seconds"]) >= 0


def test_a_stream_that_has_nothing_to_tell_shows_that_it_lives(http: httpx.Client) -> None:
    answer = post(http, drawing_request(stream=True, num_inference_steps=100, size="512x512"))
    lines = answer.text.splitlines()
    assert answer.elapsed.total_seconds() > KEEP_ALIVE_S
    assert any(line.startswith(":") for line in lines)
    assert [line for line in lines if line.startswith("event:")] == [f"event: {COMPLETED}"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n": 11}, invalid("invalid_value", "n")),
        ({"images": ["?"]}, invalid("invalid_base64", "images[0]")),
        ({"model": "nothing"}, (404, "not_found_error", "model_not_found", "model")),
        ({"response_format": "url"}, invalid("invalid_value", "response_format")),
    ],
)
def test_what_is_refused_before_the_stream_is_a_plain_error(http: httpx.Client, fields: Fields, expected: Any) -> None:
    assert refusal(post(http, drawing_request(**{"stream": True, **fields}))) == expected


def test_an_edit_that_has_not_the_time_is_refused_before_its_stream(http: httpx.Client) -> None:
    body = drawing_request(stream=True, num_inference_steps=100, size="1024x1024", n=10)
    answer = http.post(EDITS, json=body, headers={"x-request-timeout-seconds": "5"})
    assert refusal(answer) == OVERLOADED


@pytest.mark.parametrize("stream", [False, True])
def test_a_header_that_says_neither_yes_nor_no_is_refused(http: httpx.Client, stream: bool) -> None:
    response = http.post(EDITS, json=drawing_request(stream=stream), headers={"x-progress": "please"})
    assert refusal(response) == invalid("invalid_value", None)


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_a_client_that_leaves_its_stream_frees_the_row(engine_stats: Stats, http: httpx.Client, model: str) -> None:
    def idle() -> bool:
        return not _rows(engine_stats(model))

    eventually(idle)
    before = engine_stats(model)
    events = arriving(http, drawing_request(model=model, stream=True, num_inference_steps=100, size="512x512"), WATCHED)
    assert next(events).name == PROGRESS
    events.close()
    eventually(idle)
    after = engine_stats(model)
    assert after.cancelled_rows - before.cancelled_rows == 1
    assert after.row_steps - before.row_steps < 100


def _rows(stats: EngineStats) -> int:
    return stats.waiting_rows + stats.running_rows
