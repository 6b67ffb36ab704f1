"""The same request sent again: one run and one answer, by its idempotency key or as the official client's retry."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from serve.deployments.runbook import RETRY_GRACE_S
from serve.engine.engine import EngineStats
from tests.http.api import EDITS, drawing_request, files, invalid, refusal
from tests.http.conftest import KONTEXT, TINY, Server
from tests.http.processes import replicas
from tests.http.test_life import Stats
from tests.http.test_multipart import PNG
from tests.http.test_streams import COMPLETED, PARTIAL, PROGRESS, WATCHED, Event, arriving, stream
from tests.http.wire import Wire
from tests.waiting import eventually

REPLAYED = "idempotent-replayed"
RETRIES = "x-stainless-retry-count"
STEPS = 60


def _send(http: httpx.Client, headers: dict[str, str], **fields: Any) -> httpx.Response:
    return http.post(EDITS, json=drawing_request(seed=None, **fields), headers=headers)


def _key() -> dict[str, str]:
    return {"idempotency-key": uuid4().hex}


def test_the_same_key_gets_the_same_answer_without_another_run(http: httpx.Client, engine_stats: Stats) -> None:
    key = _key()
    first = _send(http, key)
    before = engine_stats(TINY).row_steps
    again = _send(http, key)
    assert first.status_code == 200
    assert (again.status_code, again.content) == (200, first.content)
    assert (REPLAYED in first.headers, again.headers[REPLAYED]) == (False, "true")
    assert engine_stats(TINY).row_steps == before
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


def test_duplicates_that_come_together_share_one_run(http: httpx.Client, engine_stats: Stats) -> None:
    before, key = engine_stats(TINY).row_steps, _key()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: _send(http, key, num_inference_steps=20), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(REPLAYED in answer.headers for answer in answers) == [False, True, True, True]
    assert engine_stats(TINY).row_steps - before == 20


def test_a_form_and_json_that_ask_for_the_same_are_the_same(http: httpx.Client) -> None:
    key = _key()
    first = _send(http, key)
    fields = {name: str(value) for name, value in drawing_request(seed=None).items() if name not in ("images", "seed")}
    again = http.post(EDITS, data=fields, files={"image": ("upload", PNG)}, headers=key)
    assert again.content == first.content


def test_a_key_with_another_request_is_a_conflict(http: httpx.Client) -> None:
    key = _key()
    assert _send(http, key).status_code == 200
    for other in ({"prompt": "make it green"}, {"n": 2}, {"mask": None, "size": "512x512"}):
        refused = _send(http, key, **other)
        assert refusal(refused) == (409, "invalid_request_error", "idempotency_key_reused", None)
    assert _send(http, key).headers[REPLAYED] == "true"


def test_the_key_of_a_request_that_failed_is_free_for_another_try(http: httpx.Client) -> None:
    key = _key()
    late = _send(http, {**key, "x-request-timeout-seconds": "0.001"}, num_inference_steps=100)
    assert late.status_code in (408, 429)
    assert _send(http, key, num_inference_steps=1).status_code == 200


def test_two_keys_are_two_requests(http: httpx.Client) -> None:
    first, second = (_send(http, _key()).json()["data"][0]["seed"] for _ in range(2))
    assert first != second


def test_a_run_with_a_key_outlives_its_sender(server: Server, http: httpx.Client, engine_stats: Stats) -> None:
    before, key = engine_stats(TINY), _key()
    with Wire(server.url) as wire:
        wire.send_edit(drawing_request(num_inference_steps=STEPS), key)
        eventually(lambda: engine_stats(TINY).row_steps > before.row_steps)
    again = http.post(EDITS, json=drawing_request(num_inference_steps=STEPS), headers=key)
    assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
    after = engine_stats(TINY)
    assert after.row_steps - before.row_steps == STEPS
    assert after.cancelled_rows == before.cancelled_rows


@pytest.mark.parametrize("headers", [{"idempotency-key": "k"}, {RETRIES: "0"}], ids=["key", "retry"])
def test_a_run_survives_the_death_of_the_ingress(
    http: httpx.Client, engine_stats: Callable[[str], EngineStats], headers: dict[str, str]
) -> None:
    """The retry finds the run that its first try has begun."""
    body = drawing_request(model=KONTEXT, num_inference_steps=STEPS, prompt=uuid4().hex, size="512x512")
    headers = {name: uuid4().hex if value == "k" else value for name, value in headers.items()}
    before = engine_stats(KONTEXT)
    (victim,) = replicas("ingress")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(http.post, EDITS, json=body, headers=headers)
        eventually(lambda: engine_stats(KONTEXT).row_steps > before.row_steps)
        victim.kill()
        assert first.result().status_code == 503
    eventually(lambda: http.get("/readyz").status_code == 200)
    again = http.post(EDITS, json=body, headers={**headers, **({RETRIES: "1"} if RETRIES in headers else {})})
    assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
    assert len(files(again)) == 1
    assert engine_stats(KONTEXT).row_steps - before.row_steps == STEPS


def test_a_stream_with_a_key_survives_the_death_of_the_ingress(http: httpx.Client, engine_stats: Stats) -> None:
    body = drawing_request(model=KONTEXT, num_inference_steps=STEPS, prompt=uuid4().hex, size="512x512", stream=True)
    key, before = {**_key(), **WATCHED}, engine_stats(KONTEXT)
    events = arriving(http, body, key)
    assert next(events).name == PROGRESS
    (victim,) = replicas("ingress")
    victim.kill()
    *_, last = events
    assert (last.name, last.data["error"]["code"]) == ("error", "backend_unavailable")
    eventually(lambda: http.get("/readyz").status_code == 200)
    assert len(_completed(list(arriving(http, body, key)))) == 1
    assert engine_stats(KONTEXT).row_steps - before.row_steps == STEPS


def test_the_clients_first_tries_are_requests_of_their_own(http: httpx.Client) -> None:
    answers = [_send(http, {RETRIES: "0"}) for _ in range(2)]
    seeds = [answer.json()["data"][0]["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    assert not any(REPLAYED in answer.headers for answer in answers)


def test_the_clients_retry_joins_the_run_whose_connection_broke(
    server: Server, http: httpx.Client, engine_stats: Stats
) -> None:
    body = drawing_request(num_inference_steps=STEPS, prompt=uuid4().hex)
    before = engine_stats(TINY)
    with Wire(server.url) as wire:
        wire.send_edit(body, {RETRIES: "0"})
        eventually(lambda: engine_stats(TINY).row_steps > before.row_steps)
    again = http.post(EDITS, json=body, headers={RETRIES: "1"})
    assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
    assert engine_stats(TINY).row_steps - before.row_steps == STEPS


def test_a_run_that_no_retry_comes_for_frees_its_row(server: Server, engine_stats: Stats) -> None:
    before = engine_stats(TINY)
    with Wire(server.url) as wire:
        wire.send_edit(drawing_request(num_inference_steps=100, size="1024x1024"), {RETRIES: "0"})
        eventually(lambda: engine_stats(TINY).row_steps > before.row_steps)
    eventually(lambda: engine_stats(TINY).cancelled_rows == before.cancelled_rows + 1, within_s=RETRY_GRACE_S + 30)


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none_is_refused(http: httpx.Client, key: str) -> None:
    assert refusal(_send(http, {"idempotency-key": key})) == invalid("invalid_value", None)


# Streams


def _completed(events: list[Event]) -> list[dict[str, Any]]:
    return [event.data for event in events if event.name == COMPLETED]


def test_a_stream_with_the_same_key_is_answered_again_without_another_run(
    http: httpx.Client, engine_stats: Stats
) -> None:
    key, fields = _key(), {"num_inference_steps": 4, "partial_images": 2, "seed": None}
    first = stream(http, key, **fields)
    before = engine_stats(TINY).row_steps
    again = stream(http, key, **fields)
    assert [event.name for event in first] == [PARTIAL, PARTIAL, COMPLETED]
    assert [event.name for event in again] == [COMPLETED]
    assert _completed(again) == _completed(first)
    assert engine_stats(TINY).row_steps == before
    raw = http.post(EDITS, json=drawing_request(stream=True, **fields), headers=key)
    assert raw.headers[REPLAYED] == "true"


def test_streams_that_come_together_share_one_run_and_are_each_told_of_it(
    http: httpx.Client, engine_stats: Stats
) -> None:
    before, key = engine_stats(TINY).row_steps, {**_key(), **WATCHED}
    body = drawing_request(stream=True, num_inference_steps=STEPS, size="512x512", partial_images=1, seed=None)
    first = arriving(http, body, key)
    begun = next(first)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(lambda: list(arriving(http, body, key)))
        both = [begun, *first], second.result()
    assert engine_stats(TINY).row_steps - before == STEPS
    for events in both:
        assert [event.name for event in events if event.name != PROGRESS] == [PARTIAL, COMPLETED]
        assert [event.data["step"] for event in events if event.name == PROGRESS][-1] == STEPS
    assert _completed(both[0]) == _completed(both[1])


def test_a_stream_with_a_key_whose_client_left_goes_on_and_is_joined(http: httpx.Client, engine_stats: Stats) -> None:
    key, before = {**_key(), **WATCHED}, engine_stats(TINY)
    body = drawing_request(stream=True, num_inference_steps=STEPS, seed=None)
    left = arriving(http, body, key)
    assert next(left).name == PROGRESS
    left.close()
    assert len(_completed(list(arriving(http, body, key)))) == 1
    after = engine_stats(TINY)
    assert after.row_steps - before.row_steps == STEPS
    assert after.cancelled_rows == before.cancelled_rows


def test_a_key_stands_for_a_stream_or_for_a_plain_answer(http: httpx.Client) -> None:
    key = _key()
    assert len(stream(http, key, seed=None)) == 1
    assert refusal(_send(http, key)) == (409, "invalid_request_error", "idempotency_key_reused", None)
    assert refusal(_send(http, key, stream=True, n=2))[0] == 409


def test_a_stream_that_is_refused_leaves_its_key_free(http: httpx.Client) -> None:
    key = _key()
    late = _send(http, {**key, "x-request-timeout-seconds": "0.001"}, stream=True, num_inference_steps=100)
    assert late.status_code in (408, 429)
    assert len(stream(http, key, seed=None)) == 1


def test_a_conflict_is_not_worth_a_retry(http: httpx.Client) -> None:
    key = _key()
    assert _send(http, key).status_code == 200
    assert _send(http, key, n=2).headers["x-should-retry"] == "false"
