"""Work stops when nobody waits for it, and a server with too much of it says so."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from serve.engine.engine import EngineStats
from tests.http.api import canvas_request, draw, drawing_request, files, post, refusal
from tests.http.conftest import KONTEXT, MAX_QUEUED_ROWS, TINY, Server
from tests.http.wire import Wire
from tests.waiting import eventually

LONG_STEPS = 100
MODELS = (TINY, KONTEXT)
Stats = Callable[[str], EngineStats]


def _rows(stats: EngineStats) -> int:
    return stats.waiting_rows + stats.running_rows


def _idle(engine_stats: Stats, model: str) -> Callable[[], bool]:
    return lambda: _rows(engine_stats(model)) == 0


def _send_long_edit(wire: Wire, n: int, model: str = TINY, size: str = "512x512") -> None:
    wire.send_edit(drawing_request(model=model, n=n, num_inference_steps=LONG_STEPS, size=size))


@pytest.mark.parametrize("model", MODELS)
def test_a_client_that_leaves_frees_its_rows(server: Server, engine_stats: Stats, model: str) -> None:
    eventually(_idle(engine_stats, model))
    before = engine_stats(model)
    with Wire(server.url) as wire:
        _send_long_edit(wire, n=3, model=model)
        eventually(lambda: engine_stats(model).row_steps > before.row_steps)
    eventually(_idle(engine_stats, model))
    after = engine_stats(model)
    assert after.cancelled_rows - before.cancelled_rows == 3
    assert after.row_steps - before.row_steps < LONG_STEPS


def test_a_client_that_leaves_the_queue_is_never_begun(server: Server, engine_stats: Stats, http: httpx.Client) -> None:
    eventually(_idle(engine_stats, TINY))
    with Wire(server.url) as first:
        _send_long_edit(first, n=1, size="1024x1024")
        eventually(lambda: engine_stats(TINY).running_rows == 1)
        before = engine_stats(TINY)
        with Wire(server.url) as second:
            _send_long_edit(second, n=2, size="1024x1024")
            eventually(lambda: engine_stats(TINY).waiting_rows == 2)
        eventually(lambda: engine_stats(TINY).waiting_rows == 0)
        after = engine_stats(TINY)
    assert after.cancelled_rows - before.cancelled_rows == 2
    assert after.wasted_row_steps == before.wasted_row_steps
    eventually(_idle(engine_stats, TINY))
    assert len(draw(http)) == 1


def test_a_client_that_leaves_does_not_disturb_those_beside_it(
    server: Server, engine_stats: Stats, http: httpx.Client
) -> None:
    alone = draw(http, model=KONTEXT, num_inference_steps=6)
    eventually(_idle(engine_stats, KONTEXT))
    before = engine_stats(KONTEXT)
    with ThreadPoolExecutor(1) as threads, Wire(server.url) as wire:
        _send_long_edit(wire, n=2, model=KONTEXT, size="256x256")
        eventually(lambda: engine_stats(KONTEXT).row_steps > before.row_steps)
        staying = threads.submit(draw, http, model=KONTEXT, num_inference_steps=6)
        eventually(lambda: _rows(engine_stats(KONTEXT)) == 3)
        wire.close()
        assert staying.result() == alone
    eventually(_idle(engine_stats, KONTEXT))


def test_callers_with_the_same_request_id_leave_one_by_one(
    server: Server, engine_stats: Stats, http: httpx.Client
) -> None:
    eventually(_idle(engine_stats, KONTEXT))
    before = engine_stats(KONTEXT)
    with ThreadPoolExecutor(1) as threads, Wire(server.url) as wire:
        body = drawing_request(model=KONTEXT, num_inference_steps=LONG_STEPS)
        wire.send_edit(body, {"x-request-id": "same"})
        eventually(lambda: engine_stats(KONTEXT).row_steps > before.row_steps)
        body = drawing_request(model=KONTEXT, num_inference_steps=6)
        staying = threads.submit(http.post, "/v1/images/edits", json=body, headers={"x-request-id": "same"})
        eventually(lambda: _rows(engine_stats(KONTEXT)) == 2)
        wire.close()
        assert staying.result().status_code == 200
    eventually(_idle(engine_stats, KONTEXT))


def test_a_full_queue_refuses_and_says_when_to_come_back(
    server: Server, engine_stats: Stats, http: httpx.Client
) -> None:
    eventually(_idle(engine_stats, TINY))
    with ExitStack() as clients:
        first, second = (clients.enter_context(Wire(server.url)) for _ in range(2))
        _send_long_edit(first, n=10)
        eventually(lambda: engine_stats(TINY).running_rows > 0)
        _send_long_edit(second, n=MAX_QUEUED_ROWS - engine_stats(TINY).waiting_rows)
        eventually(lambda: engine_stats(TINY).waiting_rows == MAX_QUEUED_ROWS)
        refused = post(http, drawing_request())
        assert refusal(refused) == (429, "rate_limit_error", "server_overloaded", None)
        assert int(refused.headers["retry-after"]) >= 1
        assert post(http, canvas_request()).status_code == 200, "nothing is drawn for it, so no queue is in its way"
        assert post(http, drawing_request(model=KONTEXT)).status_code == 200, "the other model is idle"
    eventually(_idle(engine_stats, TINY))
    assert len(draw(http)) == 1


def test_a_burst_ends_in_results_and_refusals_only(engine_stats: Stats, http: httpx.Client) -> None:
    eventually(_idle(engine_stats, KONTEXT))

    def one(seed: int) -> httpx.Response:
        return post(http, drawing_request(model=KONTEXT, num_inference_steps=3, seed=seed))

    seeds = range(60)
    with ThreadPoolExecutor(len(seeds)) as threads:
        answers = dict(zip(seeds, threads.map(one, seeds), strict=True))
    refused = [answer for answer in answers.values() if answer.status_code != 200]
    assert 0 < len(refused) < len(answers)
    for answer in refused:
        assert refusal(answer) == (429, "rate_limit_error", "server_overloaded", None)
        assert int(answer.headers["retry-after"]) >= 1
    served = {seed: files(answer) for seed, answer in answers.items() if answer.status_code == 200}
    some = max(served)
    assert served[some] == draw(http, model=KONTEXT, num_inference_steps=3, seed=some)
    assert len({file for drawn in served.values() for file in drawn}) == len(served)
