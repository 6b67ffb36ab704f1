"""The RayService of the demo on a real Ray, without Kubernetes: what KubeRay would send to its dashboard is sent there,
with the environment of its pods, and its probes ask what KubeRay's ask."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.cluster import cluster
from serve import strict_yaml
from tests.http.api import SOURCE
from tests.http.conftest import free_port
from tests.k8s.application import SETTINGS_KEY
from tests.k8s.rendering import K8S, Manifest, of_kind, render

RETOUCH = str(Path(sys.executable).parent / "retouch")
EDIT: dict[str, Any] = {"images": [SOURCE], "prompt": "make it darker", "size": "256x256", "num_inference_steps": 1}


@dataclass(frozen=True)
class Deployed:
    """dashboard, agents, api: where they are. key: of the API."""

    dashboard: str
    agents: tuple[str, str]
    api: str
    key: str


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, embedded_engines: None) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("rayservice")
    manifests = render(K8S / "overlays" / "cpu-demo")
    *agents, port = (free_port() for _ in range(3))
    token = secrets.token_hex(32)
    environment = {**_variables(manifests), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    head, worker = (
        {"num_cpus": cpus, "dashboard_agent_listen_port": agent} for cpus, agent in zip((0, 4), agents, strict=True)
    )
    with cluster({"head": head, "worker": worker}, environment, token) as nodes:
        key = _key(folder)
        nodes.deploy(_application(manifests, folder, port))
        nodes.wait_until_running()
        urls = [f"http://127.0.0.1:{port}" for port in (*agents, port)]
        yield Deployed(nodes.dashboard, (urls[0], urls[1]), urls[2], key)


def test_the_dashboard_wants_the_token(deployed: Deployed) -> None:
    assert httpx.get(f"{deployed.dashboard}/api/serve/applications/").status_code == 401
    assert httpx.get(f"{deployed.dashboard}/api/jobs/").status_code == 401


def test_kuberays_probes_are_answered_without_it(deployed: Deployed) -> None:
    head, worker = deployed.agents
    for probe in (
        f"{head}/api/local_raylet_healthz",
        f"{worker}/api/local_raylet_healthz",
        f"{head}/api/healthz",
        f"{worker}/api/healthz",
        f"{deployed.dashboard}/api/gcs_healthz",
        f"{deployed.api}/-/healthz",
    ):
        answer = httpx.get(probe, timeout=10)
        assert answer.status_code == 200
        assert "success" in answer.text


def test_an_edit_wants_a_key_and_is_drawn(deployed: Deployed) -> None:
    url = f"{deployed.api}/v1/images/edits"
    assert httpx.post(url, json=EDIT, timeout=60).status_code == 401
    answer = httpx.post(url, json=EDIT, timeout=60, headers={"Authorization": f"Bearer {deployed.key}"})
    assert answer.status_code == 200
    assert httpx.get(answer.json()["data"][0]["url"], timeout=60).headers["content-type"] == "image/png"


def test_monitoring_finds_the_metrics_of_the_engines(deployed: Deployed) -> None:
    assert "retouch_engine_healthy" in httpx.get(f"{deployed.api}/metrics", timeout=10).text


def _key(folder: Path) -> str:
    """Of the API, made as the README says."""
    command = [RETOUCH, "keys", "create", "ada", "--file", str(folder / "keys.yaml")]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return next(word for word in (told.stdout + told.stderr).split() if word.startswith("rtk-"))


def _variables(manifests: list[Manifest]) -> dict[str, str]:
    (environment,) = (one for one in of_kind(manifests, "ConfigMap") if SETTINGS_KEY not in one["data"])
    return environment["data"]


def _application(manifests: list[Manifest], folder: Path, port: int) -> Manifest:
    """Ray Serve's configuration, with this machine's folder and port in the places of the pods'."""
    (settings,) = (one for one in of_kind(manifests, "ConfigMap") if SETTINGS_KEY in one["data"])
    file = folder / SETTINGS_KEY
    file.write_text(settings["data"][SETTINGS_KEY].replace("/etc/retouch-keys", str(folder)))
    config = strict_yaml.load(of_kind(manifests, "RayService")[0]["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"]["config"] = str(file)
    return config
