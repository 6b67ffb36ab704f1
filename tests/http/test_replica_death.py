"""A process of the server dies in the middle of its work: nobody's request is lost or hangs, and the rest goes on."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from httpx_sse import connect_sse

from serve.engine.engine import EngineStats
from tests.http.api import EDITS, draw, drawing_request, files, post, refusal
from tests.http.conftest import KONTEXT, TINY
from tests.http.processes import replicas, session_folder
from tests.waiting import eventually

STEPS = 20


@pytest.mark.parametrize("deployment", [f"editor-{KONTEXT}", "codec", "ingress"])
def test_a_replica_that_is_killed_costs_no_request(
    http: httpx.Client, engine_stats: Callable[[str], EngineStats], deployment: str
) -> None:
    expected = {seed: draw(http, model=KONTEXT, num_inference_steps=STEPS, seed=seed) for seed in (1, 2)}
    before = engine_stats(KONTEXT)
    (victim,) = replicas(deployment)
    bodies = [drawing_request(model=KONTEXT, num_inference_steps=STEPS, seed=seed) for seed in expected]
    with ThreadPoolExecutor(len(bodies)) as threads:
        pending = [threads.submit(post, http, body) for body in bodies]
        eventually(lambda: engine_stats(KONTEXT).row_steps > before.row_steps)
        victim.kill()
        answers = [one.result() for one in pending]
    for answer, drawn in zip(answers, expected.values(), strict=True):
        if answer.status_code == 200:
            assert files(answer) == drawn
        else:
            assert refusal(answer) == (503, "server_error", "backend_unavailable", None)
            assert answer.headers["x-should-retry"] == "true"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-request-id"]
    eventually(lambda: http.get("/readyz").status_code == 200)
    eventually(lambda: post(http, bodies[0]).status_code == 200)
    assert draw(http, model=KONTEXT, num_inference_steps=STEPS, seed=1) == expected[1]
    assert [process.pid for process in replicas(deployment)] != [victim.pid]
    assert len(draw(http, model=TINY)) == 1


def _proxys_refusals() -> str:
    logs = (session_folder(os.getpid()) / "logs" / "serve").glob("proxy_*.log")
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return "\n".join(line for line in lines if "refused status=503" in line)


def test_a_stream_whose_ingress_is_killed_ends_with_an_error(http: httpx.Client) -> None:
    body = drawing_request(model=KONTEXT, num_inference_steps=STEPS, stream=True)
    (victim,) = replicas("ingress")
    with connect_sse(http, "POST", EDITS, json=body, headers={"x-progress": "true"}) as stream:
        events = stream.iter_sse()
        assert next(events).event == "image_edit.progress"
        victim.kill()
        *_, last = events
    assert last.event == "error"
    assert last.json()["error"]["code"] == "backend_unavailable"
    assert stream.response.headers["x-request-id"] in _proxys_refusals()
    eventually(lambda: http.get("/readyz").status_code == 200)
