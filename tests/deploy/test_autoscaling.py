"""A server whose models have as many replicas as their work needs, none at all among them."""

import os
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import checkpoints
from tests.deploy.test_retouch_serve import serving
from tests.http.api import EDITS, drawing_request
from tests.http.conftest import free_port
from tests.http.processes import replicas, session_folder
from tests.waiting import eventually

CONFIG = """
models:
  - id: pool
    family: flux_kontext
    weights: {weights}
    backend: simulated
    simulated: {{timings: linear, speed: 4}}
    max_batch: 2
    replicas: {{min: 1, max: 3, max_wait_s: 2, upscale_delay_s: 0, downscale_delay_s: 4}}
  - id: rare
    family: flux_kontext
    weights: {weights}
    backend: simulated
    replicas: {{min: 0, max: 1, downscale_delay_s: 1}}
limits: {{requests_in_flight: 64}}
"""
PATIENCE_S, POLL_S = 120.0, 0.25
ROWS = ("retouch_engine_waiting_rows", "retouch_engine_running_rows")
FULL = 4
"""Edits of one replica, of as many as it is given: twice `max_batch`."""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pid(tmp_path_factory: pytest.TempPathFactory, port: int) -> Generator[int]:
    """Of the server."""
    folder = tmp_path_factory.mktemp("autoscaling")
    config = folder / "retouch.yaml"
    config.write_text(CONFIG.format(weights=checkpoints.flux_kontext(folder / "weights")))
    os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
    try:
        with serving(port, "--config", str(config)) as server:
            yield server.pid
    finally:
        del os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"]


@pytest.fixture(scope="module")
def url(port: int, pid: int) -> str:
    assert pid
    return f"http://127.0.0.1:{port}"


def edit(url: str, **fields: Any) -> int:
    return httpx.post(url + EDITS, json=drawing_request(**fields), timeout=PATIENCE_S).status_code


def rows_of_replicas(url: str) -> list[int]:
    """Of the pool's, as Prometheus reads them."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text)
    rows: Counter[str] = Counter()
    for sample in (sample for family in families for sample in family.samples):
        if sample.name in ROWS and sample.labels["model"] == "pool":
            rows[sample.labels["replica"]] += int(sample.value)
    return list(rows.values())


def has(count: int, deployment: str, pid: int) -> Callable[[], bool]:
    return lambda: len(replicas(deployment, of=pid)) == count


def test_replicas_come_with_work_and_go_with_it_and_no_edit_is_lost(url: str, pid: int) -> None:
    assert has(1, "editor-pool", pid)()
    with ThreadPoolExecutor(24) as threads:
        edits = [threads.submit(edit, url, model="pool", num_inference_steps=40, seed=seed) for seed in range(24)]
        eventually(lambda: FULL in rows_of_replicas(url), PATIENCE_S, POLL_S)
        assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200, "it is busy, and can edit"
        eventually(has(3, "editor-pool", pid), PATIENCE_S, POLL_S)
        assert {one.result() for one in edits} == {200}
    eventually(has(1, "editor-pool", pid), PATIENCE_S, POLL_S)
    logs = "".join(path.read_text() for path in (session_folder(pid) / "logs" / "serve").glob("controller_*.log"))
    assert "editor-pool has 1 replicas and needs" in logs


def test_a_model_without_work_has_no_replica_and_one_comes_with_the_next_edit(url: str, pid: int) -> None:
    eventually(has(0, "editor-rare", pid), PATIENCE_S, POLL_S)
    assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200
    assert has(0, "editor-rare", pid)()
    assert edit(url, model="rare") == 200
    eventually(has(0, "editor-rare", pid), PATIENCE_S, POLL_S)
