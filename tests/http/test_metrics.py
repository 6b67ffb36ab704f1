"""What Prometheus reads of requests and engines: counted right, complete, and nothing of what callers sent."""

from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.engine.engine import EngineStats
from serve.metrics.table import STAGES
from tests.http.api import EDITS, canvas_request, draw, drawing_request, post
from tests.http.conftest import KONTEXT, TINY, Server
from tests.http.processes import replicas
from tests.http.wire import Wire
from tests.waiting import eventually

LABELS = ("deployment", "route", "model", "status", "code", "stage")
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


def _growth(http: httpx.Client, before: dict[str, float]) -> dict[str, float]:
    """Of what grew since, by the sample's name and its labels' values."""
    return {name: value - before.get(name, 0.0) for name, value in _told(http).items() if value != before.get(name)}


def _told(http: httpx.Client) -> dict[str, float]:
    """Of requests and pictures; the replica's name is left out."""
    told: dict[str, float] = {}
    for family in text_string_to_metric_families(_read(http)):
        for sample in family.samples:
            labels = [sample.labels[label] for label in LABELS if label in sample.labels]
            if "le" not in sample.labels and not sample.name.startswith("retouch_engine_"):
                told[" ".join((sample.name.removeprefix("retouch_"), *labels))] = sample.value
    return told


def _ended(http: httpx.Client, before: dict[str, float], end: str) -> dict[str, float]:
    """The growth, once a request has ended like this: it is counted after its answer's last byte."""
    eventually(lambda: _growth(http, before).get(f"requests_total {end}", 0) >= 1)
    return _growth(http, before)


def test_an_edit_is_counted_with_its_images_its_bytes_and_its_stages(http: httpx.Client) -> None:
    before = _told(http)
    answer = post(http, drawing_request(n=2, response_format="url"))
    grown = _ended(http, before, f"{TINY} 200 ok")
    assert (grown[f"requests_total {TINY} 200 ok"], grown[f"images_total {TINY}"]) == (1, 2)
    assert (grown["received_bytes_total"], grown["sent_bytes_total edits"]) == (
        float(answer.request.headers["content-length"]),
        len(answer.content),
    )
    assert grown["stored_images_total"] == 2
    stages = {name: value for name, value in grown.items() if name.startswith(f"stage_seconds_count {TINY} ")}
    assert stages == {f"stage_seconds_count {TINY} {stage}": 1 for stage in STAGES}
    timing = {part.partition(";")[0]: part.partition("=")[2] for part in answer.headers["server-timing"].split(", ")}
    for stage, told_ms in timing.items():
        assert grown.get(f"stage_seconds_sum {TINY} {stage}", 0) * 1000 == pytest.approx(float(told_ms), abs=0.06)


def test_files_that_links_lead_to_are_counted(http: httpx.Client) -> None:
    link = post(http, drawing_request(response_format="url")).json()["data"][0]["url"]
    before = _told(http)
    size = len(http.get(link).content)
    assert _growth(http, before) == {"sent_bytes_total files": size}


def test_a_stream_is_counted_as_an_edit_is(http: httpx.Client) -> None:
    before = _told(http)
    assert post(http, drawing_request(stream=True, n=2)).status_code == 200
    grown = _ended(http, before, f"{TINY} 200 ok")
    assert grown[f"images_total {TINY}"] == 2
    stages = {name.rpartition(" ")[2] for name in grown if name.startswith(f"stage_seconds_count {TINY}")}
    assert stages == set(STAGES) - {"store"}  # a stream's pictures are in its events


def test_a_client_that_leaves_is_counted(http: httpx.Client, server: Server, engine_stats: Stats) -> None:
    before, begun = _told(http), engine_stats(TINY).row_steps
    with Wire(server.url) as wire:
        wire.send_edit(drawing_request(num_inference_steps=100, size="1024x1024"))
        eventually(lambda: engine_stats(TINY).row_steps > begun)
        assert _growth(http, before)["requests_in_flight"] == 1
    grown = _ended(http, before, f"{TINY} 499 client_closed")
    assert "requests_in_flight" not in grown
    assert not any(name.startswith(("images", "request_seconds")) for name in grown)


def test_refusals_are_counted_by_code_and_no_caller_makes_a_label(http: httpx.Client) -> None:
    before, secret = _told(http), "zanzibar"
    assert post(http, drawing_request(model=secret)).status_code == 404
    assert post(http, {secret: 1}).status_code == 400
    assert http.post(EDITS, content=b"", headers={"content-type": secret}).status_code == 415
    grown = _ended(http, before, "- 415 unsupported_media_type")
    ends = {name: value for name, value in grown.items() if name.startswith("requests_total")}
    assert ends == {
        "requests_total - 404 model_not_found": 1,
        "requests_total - 400 unknown_parameter": 1,
        "requests_total - 415 unsupported_media_type": 1,
    }
    assert secret not in _read(http)


def test_an_answer_that_is_given_again_is_no_work(http: httpx.Client) -> None:
    key, start = {"idempotency-key": "told-once"}, _told(http)
    assert http.post(EDITS, json=drawing_request(), headers=key).status_code == 200
    _ended(http, start, f"{TINY} 200 ok")
    before = _told(http)
    assert http.post(EDITS, json=drawing_request(), headers=key).status_code == 200
    grown = _ended(http, before, f"{TINY} 200 ok")
    assert grown[f"replayed_requests_total {TINY}"] == 1
    assert not any(name.startswith("stage_seconds") for name in grown)


def test_every_model_has_the_replicas_that_it_wants(http: httpx.Client) -> None:
    told = _told(http)
    for model in (TINY, KONTEXT):
        assert (told[f"healthy_replicas {model}"], told[f"least_replicas {model}"]) == (1, 1)
    silent = {name: value for name, value in told.items() if name.startswith("silent_replicas")}
    deployments = ("ingress ", "codec ", *(f"editor-{model} {model}" for model in (TINY, KONTEXT)))
    assert silent == {f"silent_replicas {name}": 0 for name in deployments}


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
        told = _told(http)
        assert (told[f"healthy_replicas {KONTEXT}"], told[f"silent_replicas editor-{KONTEXT} {KONTEXT}"]) == (0, 1)
    finally:
        silent.resume()
    eventually(lambda: set(_values(http, "healthy")) == {TINY, KONTEXT})
