"""What a real Prometheus has of a real server of two processes that speak HTTP, after requests of every kind."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serve.metrics import TABLE
from tests.deploy.test_retouch_serve import serving
from tests.http.api import drawing_request, post
from tests.http.conftest import TINY, free_port
from tests.http.prometheus import Prometheus, scraping
from tests.http.wire import Wire
from tests.k8s.prometheus import alerts, filled, panels
from tests.waiting import eventually

EDITS, STREAMS, IMAGES_EACH = 12, 2, 2
METRICS = [metric for metrics in TABLE.values() for metric in metrics]
QUERIES = {f"{panel['title']} {one['refId']}": one["expr"] for panel in panels() for one in panel["targets"]}
EMPTY_WHEN_ALL_IS_WELL = {"Alerts A", "Replicas C"}
ENDS = {
    ("ok", TINY, "200"): EDITS + STREAMS,
    ("client_closed", TINY, "499"): 1,
    ("model_not_found", "-", "404"): 3,
    ("invalid_value", "-", "400"): 2,
    ("missing_required_parameter", "-", "400"): 1,
}
"""Of the requests that `_use` sends, by code, model and status."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, embedded_engines: None) -> Iterator[Prometheus]:
    """That has scraped a server from before its first request until all that `_use` sends is counted."""
    folder, port = tmp_path_factory.mktemp("scraped"), free_port()
    configuration = {
        "server": {"ingress_replicas": 2, "cache_folder": str(folder / "cache")},
        "storage": {"folder": str(folder / "files")},
    }
    (folder / "retouch.yaml").write_text(yaml.safe_dump(configuration))
    with serving(port, "--config", str(folder / "retouch.yaml")), scraping(port, folder) as prometheus:
        eventually(lambda: prometheus.vector("count(retouch_requests_in_flight)") == {(): 2})
        _use(f"http://127.0.0.1:{port}")
        eventually(lambda: sum(_ends(prometheus).values()) == sum(ENDS.values()))
        yield prometheus


def _use(url: str) -> None:
    with httpx.Client(base_url=url, timeout=120, headers={"connection": "close"}) as http:
        wrong = [{"model": "nothing"}] * 3 + [{"n": 11}] * 2 + [{"prompt": None}]
        right = [{"n": IMAGES_EACH, "response_format": "url"}] * EDITS + [{"stream": True}] * STREAMS
        with ThreadPoolExecutor(4) as threads:
            bodies = [drawing_request(**fields) for fields in (*wrong, *right)]
            statuses = list(threads.map(lambda body: post(http, body).status_code, bodies))
        assert sorted(statuses) == [200] * len(right) + [400] * 3 + [404] * 3
        with Wire(url) as wire:
            wire.send_edit(drawing_request(num_inference_steps=100, size="1024x1024"))
            eventually(lambda: _running_rows(http) == 1)


def _running_rows(http: httpx.Client) -> float:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return sum(one.value for family in families for one in family.samples if one.name == "retouch_engine_running_rows")


def _ends(prometheus: Prometheus) -> dict[tuple[str, ...], float]:
    told = prometheus.vector("sum by (code, model, status) (retouch_requests_total)")
    return {end: count for end, count in told.items() if count}


def test_every_request_that_was_sent_is_counted_whichever_process_had_it(prometheus: Prometheus) -> None:
    assert _ends(prometheus) == ENDS
    assert prometheus.vector("sum(retouch_images_total)") == {(): EDITS * IMAGES_EACH + STREAMS}
    assert prometheus.vector("sum(retouch_request_seconds_count)") == {(): EDITS + STREAMS}
    assert prometheus.vector("sum(retouch_stored_images_total)") == {(): EDITS * IMAGES_EACH}
    assert prometheus.vector("sum(retouch_engine_jobs_total)") == {(): EDITS + STREAMS + 1}


def test_one_scrape_tells_of_both_processes_whichever_was_asked(prometheus: Prometheus) -> None:
    assert prometheus.vector("count(count by (replica) (retouch_requests_total{code='ok'}))") == {(): 2}
    assert prometheus.vector("min(sum by (replica) (retouch_requests_total)) > 0")
    assert prometheus.vector("max(resets(retouch_requests_total[10m]))") == {(): 0}
    eventually(lambda: prometheus.vector("max(retouch_silent_replicas)") == {(): 0})


def test_the_scrape_succeeds(prometheus: Prometheus) -> None:
    eventually(lambda: list(prometheus.vector("up").values()) == [1])


def test_types_and_help_come_through(prometheus: Prometheus) -> None:
    told = {one["metric"]: one for one in prometheus.ask("targets/metadata")}
    for metric in METRICS:
        name = metric.samples[0] if metric.type == "counter" else metric.name
        assert (told[name]["type"], told[name]["help"]) == (metric.type, metric.help)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_dashboard_answers(prometheus: Prometheus, name: str) -> None:
    def values() -> list[float]:
        return [value for value in prometheus.vector(filled(QUERIES[name])).values() if not math.isnan(value)]

    if name in EMPTY_WHEN_ALL_IS_WELL:
        eventually(lambda: not values())
    else:
        assert values()


def test_stages_and_the_rest_make_up_the_seconds_of_an_edit(prometheus: Prometheus) -> None:
    (stages, rest) = (
        filled(target["expr"])
        for panel in panels()
        if panel["title"].startswith("Mean seconds")
        for target in panel["targets"]
    )
    mean = "sum(rate(retouch_request_seconds_sum[5m])) / sum(rate(retouch_request_seconds_count[5m]))"
    (seconds,) = prometheus.vector(f"({mean}) - (sum({stages}) + ({rest}))").values()
    assert seconds == pytest.approx(0, abs=0.01)


def test_no_alert_fires_where_all_is_well(prometheus: Prometheus) -> None:
    def rules() -> dict[str, tuple[str, str]]:
        (group,) = prometheus.ask("rules")["groups"]
        return {rule["name"]: (rule["health"], rule["state"]) for rule in group["rules"]}

    assert set(rules()) == {alert["alert"] for alert in alerts()}
    eventually(lambda: set(rules().values()) == {("ok", "inactive")})
