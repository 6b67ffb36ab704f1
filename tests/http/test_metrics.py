"""What Prometheus reads of the engines: counted right, complete, and nothing of what callers sent."""

from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from serve.engine.engine import EngineStats
from tests.http.api import canvas_request, draw, drawing_request, post
from tests.http.conftest import KONTEXT, TINY
from tests.http.processes import replicas
from tests.waiting import eventually

Stats = Callable[[str], EngineStats]


def _read(http: httpx.Client) -> str:
    response = http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return response.text


def _values(http: httpx.Client, name: str) -> dict[str, float]:
    """By the id of the model, of which each has one replica."""
    samples = [sample for family in text_string_to_metric_families(_read(http)) for sample in family.samples]
    return {sample.labels["model"]: sample.value for sample in samples if sample.name == f"retouch_engine_{name}"}


def test_an_edit_is_counted_for_its_model_alone(http: httpx.Client) -> None:
    before = _values(http, "row_steps_total")
    draw(http, model=TINY, num_inference_steps=3, n=2)
    after = _values(http, "row_steps_total")
    assert after[TINY] - before[TINY] == 6
    assert after[KONTEXT] == before[KONTEXT]


def test_an_edit_that_draws_nothing_counts_nothing(http: httpx.Client) -> None:
    before = _values(http, "steps_total")
    assert post(http, canvas_request()).status_code == 200
    assert _values(http, "steps_total") == before


def test_every_model_says_that_it_is_healthy_and_idle(http: httpx.Client, engine_stats: Stats) -> None:
    eventually(lambda: all(engine_stats(model).running_rows == 0 for model in (TINY, KONTEXT)))
    assert _values(http, "healthy") == {TINY: 1.0, KONTEXT: 1.0}
    assert _values(http, "running_rows") == {TINY: 0.0, KONTEXT: 0.0}


def test_nothing_that_a_caller_sent_is_told(http: httpx.Client) -> None:
    secret = "zanzibar"
    assert post(http, drawing_request(prompt=secret, user=secret)).status_code == 200
    assert secret not in _read(http)


def test_a_replica_that_is_silent_is_left_out(http: httpx.Client) -> None:
    (silent,) = replicas(f"editor-{KONTEXT}")
    silent.suspend()
    try:
        assert set(_values(http, "healthy")) == {TINY}
    finally:
        silent.resume()
    eventually(lambda: set(_values(http, "healthy")) == {TINY, KONTEXT})
