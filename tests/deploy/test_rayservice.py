"""The RayService of the demo on a real Ray, without Kubernetes: what KubeRay would send to its dashboard is sent there,
with the environment of its pods, and its probes ask what KubeRay's ask."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve import strict_yaml
from tests.http.api import SOURCE
from tests.http.conftest import free_port
from tests.k8s.application import SETTINGS_KEY
from tests.k8s.rendering import K8S, Manifest, of_kind, render
from tests.waiting import eventually

RETOUCH = str(Path(sys.executable).parent / "retouch")
START_S = 120
EDIT: dict[str, Any] = {"images": [SOURCE], "prompt": "make it darker", "size": "256x256", "num_inference_steps": 1}


@dataclass(frozen=True)
class Deployed:
    """dashboard, agents, api: where they are. token: of Ray. key: of the API."""

    dashboard: str
    agents: tuple[str, str]
    api: str
    token: str
    key: str


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, embedded_engines: None) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("rayservice")
    manifests = render(K8S / "overlays" / "cpu-demo")
    ports = [free_port() for _ in range(4)]
    dashboard, *agents, api = (f"http://127.0.0.1:{port}" for port in ports)
    found = Deployed(dashboard, (agents[0], agents[1]), api, secrets.token_hex(32), _key(folder))
    environment = {**os.environ, **_variables(manifests), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": found.token}
    command = [sys.executable, "-m", "tests.deploy.two_nodes", *map(str, ports[:3])]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cluster:
        try:
            assert cluster.stdout is not None
            assert any(line == b"up\n" for line in cluster.stdout)
            _deploy(found, _application(manifests, folder, ports[3]))
            yield found
        finally:
            cluster.communicate(timeout=60)


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


def _deploy(cluster: Deployed, config: Manifest) -> None:
    """As KubeRay does, and wait until it runs."""
    url, headers = f"{cluster.dashboard}/api/serve/applications/", {"Authorization": f"Bearer {cluster.token}"}
    with httpx.Client(headers=headers, timeout=30) as client:
        assert client.put(url, json=config).status_code == 200

        def runs() -> bool:
            application = client.get(url).json()["applications"]["retouch"]
            assert application["status"] != "DEPLOY_FAILED", application["message"]
            return application["status"] == "RUNNING"

        eventually(runs, START_S, every_s=1)
