"""Whose turn it is, what callers are told of it, and that nothing is begun that cannot end in time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.engine.engine import EngineStats
from tests.http.api import EDITS, OVERLOADED, canvas_request, draw, drawing_request, post, refusal
from tests.http.conftest import KONTEXT, REQUESTS_IN_FLIGHT, TINY, Server
from tests.http.wire import Wire
from tests.waiting import eventually

STEPS = 60
Stats = Callable[[str], EngineStats]


def begin_long_edit(wire: Wire, engine_stats: Stats, n: int = 10) -> None:
    """Minutes of work for the first model, of which some steps have been run."""
    before = engine_stats(TINY)
    wire.send_edit(drawing_request(model=TINY, n=n, num_inference_steps=100, size="512x512"))
    eventually(lambda: engine_stats(TINY).row_steps >= before.row_steps + 3)


def _rows(stats: EngineStats) -> int:
    return stats.waiting_rows + stats.running_rows


def _wait_until_idle(engine_stats: Stats, model: str) -> None:
    eventually(lambda: _rows(engine_stats(model)) == 0)


@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_an_edit_of_an_idle_model_has_nobody_before_it(http: httpx.Client, engine_stats: Stats, model: str) -> None:
    _wait_until_idle(engine_stats, model)
    headers = post(http, drawing_request(model=model)).headers
    assert headers["x-queue-position"] == "0"
    assert float(headers["x-queue-seconds"]) >= 0


def test_edits_in_a_queue_are_told_how_many_run_before_them(http: httpx.Client, engine_stats: Stats) -> None:
    """Each has more to do than those before it, so that it runs after them whatever a step was measured to take."""
    _wait_until_idle(engine_stats, TINY)
    with ThreadPoolExecutor(4) as threads:
        pending = []
        for waiting, steps in enumerate((40, 55, 75, 100)):
            body = drawing_request(model=TINY, num_inference_steps=steps)
            pending.append(threads.submit(post, http, body))
            eventually(lambda waiting=waiting: _rows(engine_stats(TINY)) == waiting + 1)
        answers = [one.result() for one in pending]
    positions = [int(answer.headers["x-queue-position"]) for answer in answers]
    seconds = [float(answer.headers["x-queue-seconds"]) for answer in answers]
    assert positions[0] == 0
    assert positions[1] < positions[2] < positions[3]
    assert 0 < seconds[1] < seconds[2] < seconds[3]


def test_a_high_priority_overtakes_those_that_wait(http: httpx.Client, engine_stats: Stats) -> None:
    _wait_until_idle(engine_stats, TINY)
    ended: list[str] = []

    def edit(priority: str) -> None:
        answer = post(http, drawing_request(model=TINY, num_inference_steps=STEPS, priority=priority))
        assert answer.status_code == 200
        ended.append(priority)

    with ThreadPoolExecutor(4) as threads:
        pending = []
        for waiting, priority in enumerate(("normal", "low", "normal", "high")):
            pending.append(threads.submit(edit, priority))
            eventually(lambda waiting=waiting: _rows(engine_stats(TINY)) == waiting + 1)
        for one in pending:
            one.result()
    assert ended.index("high") <= 1, "only the edit that ran already may end before it"
    assert ended[-1] == "low"


@pytest.mark.parametrize("name", TIME_LIMIT_HEADERS)
def test_an_edit_that_cannot_end_in_its_time_is_refused_and_not_begun(
    server: Server, http: httpx.Client, engine_stats: Stats, name: str
) -> None:
    _wait_until_idle(engine_stats, TINY)
    body = drawing_request(model=TINY, num_inference_steps=100, size="512x512", n=2)
    with Wire(server.url) as wire:
        begin_long_edit(wire, engine_stats)
        before = engine_stats(TINY)
        refused = http.post(EDITS, json=body, headers={name: "2"})
        assert refusal(refused) == OVERLOADED
        assert int(refused.headers["retry-after"]) >= 1
        after = engine_stats(TINY)
        assert after.refused_jobs == before.refused_jobs + 1
        assert _rows(after) <= _rows(before)
        assert after.wasted_row_steps == before.wasted_row_steps
    _wait_until_idle(engine_stats, TINY)


@pytest.mark.parametrize("name", TIME_LIMIT_HEADERS)
@pytest.mark.parametrize("model", [TINY, KONTEXT])
def test_an_edit_that_has_not_ended_in_its_time_frees_its_rows(
    http: httpx.Client, engine_stats: Stats, model: str, name: str
) -> None:
    """408 where it ran into its limit, 429 where that was foreseen."""
    _wait_until_idle(engine_stats, model)
    body = drawing_request(model=model, num_inference_steps=100, size="512x512", n=2)
    response = http.post(EDITS, json=body, headers={name: "0.5"})
    assert refusal(response) in (OVERLOADED, (408, "invalid_request_error", "timeout", None))
    _wait_until_idle(engine_stats, model)
    assert len(draw(http, model=model)) == 1


def test_a_full_server_says_when_its_queued_work_will_be_done(
    server: Server, http: httpx.Client, engine_stats: Stats
) -> None:
    _wait_until_idle(engine_stats, TINY)
    answers: list[httpx.Response] = []

    def is_full() -> bool:
        with ExitStack() as clients:
            for _ in range(REQUESTS_IN_FLIGHT):
                clients.enter_context(Wire(server.url)).start({"content-length": "1000"})
            for _ in range(5):  # the first may overtake them
                answers.append(post(http, canvas_request()))
                if answers[-1].status_code == 429:
                    return True
        return False

    with Wire(server.url) as wire:
        begin_long_edit(wire, engine_stats)
        eventually(is_full)
        queued_s = engine_stats(TINY).queued_s
    assert refusal(answers[-1]) == OVERLOADED
    assert "in flight" in answers[-1].json()["error"]["message"]
    assert int(answers[-1].headers["retry-after"]) > 0.5 * queued_s > 1
    _wait_until_idle(engine_stats, TINY)
