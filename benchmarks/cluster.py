"""A Ray cluster of several nodes on this machine, with Retouch deployed as KubeRay deploys it: by Ray's REST API.

    with cluster({"head": {"num_cpus": 0}, "worker": {"num_cpus": 4}}) as nodes:
        nodes.deploy(serve_config({"models": [model]}, port))
        nodes.wait_until_running()

Each node has raylet, object store and agents of its own. All have one address, so that their HTTP proxies
share one port, over which the kernel spreads connections as a Kubernetes Service does over pods.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from benchmarks.errors import NoServer
from benchmarks.nodes import DONE
from benchmarks.server import command_line, free_port

APPLICATION = "retouch"
ROUTE = "/api/serve/applications/"
STORE_BYTES = 200_000_000
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 120.0
POLL_S = 0.5
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.deployments.proxy:middlewares",
}

Fields = Mapping[str, Any]
"""Of Ray's `RayParams`."""


@dataclass(frozen=True, slots=True)
class Replica:
    """node: its id, as Ray draws it."""

    deployment: str
    pid: int
    node: str
    state: str

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)


class Nodes:
    """pid: of the process whose descendants the nodes are. dashboard: the URL of Ray's REST API. token: that it wants.

    ids: of the nodes, by the names that they were added with. head: fields that make a node the one with the dashboard.
    """

    def __init__(self, process: subprocess.Popen[str], dashboard_port: int, token: str) -> None:
        self._process = process
        self.pid = process.pid
        self.dashboard = f"http://127.0.0.1:{dashboard_port}"
        self.head: dict[str, Any] = {
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard_port,
        }
        self.ids: dict[str, str] = {}
        self._deployed_before_s = 0.0
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=self.dashboard, headers=headers, timeout=30, trust_env=False)

    def add(self, name: str, **fields: Any) -> None:
        self.ids[name] = self._ask("add", name, {"object_store_memory": STORE_BYTES, **fields})

    def remove(self, name: str) -> None:
        """End all processes of the node by SIGKILL."""
        self._ask("remove", name)
        del self.ids[name]

    def kill_gcs(self) -> None:
        self._ask("kill_gcs")

    def start_gcs(self) -> None:
        self._ask("start_gcs")

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Raises NoServer where Ray refuses it, and httpx.HTTPError where the head does not answer."""
        self._deployed_before_s = self.application().get("last_deployed_time_s", 0.0)
        answer = self._http.put(ROUTE, json=config)
        if answer.status_code != 200:
            raise NoServer(f"Ray answered {answer.status_code}: {answer.text}")

    def state(self) -> dict[str, Any]:
        """What Ray Serve tells of itself. Raises httpx.HTTPError where the head does not answer."""
        answer = self._http.get(ROUTE)
        answer.raise_for_status()
        return answer.json()

    def application(self) -> dict[str, Any]:
        return self.state()["applications"].get(APPLICATION, {})

    def replicas(self, deployment: str) -> list[Replica]:
        """Those that take requests."""
        found = self.application().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return [
            Replica(deployment, one["pid"], one["node_id"], one["state"]) for one in found if one["state"] == "RUNNING"
        ]

    def is_running(self) -> bool:
        """Whether all that was deployed last is up. Raises NoServer where that failed."""
        application = self.application()
        if application.get("last_deployed_time_s", 0.0) <= self._deployed_before_s:
            return False
        status = application.get("status")
        if status == "DEPLOY_FAILED":
            raise NoServer(f"the application was not deployed: {application['message']}")
        return status == "RUNNING"

    def wait_until_running(self, within_s: float = START_TIMEOUT_S) -> None:
        """Raises NoServer."""
        give_up_at = time.monotonic() + within_s
        while not self.is_running():
            if time.monotonic() > give_up_at:
                raise NoServer(f"the application did not run within {within_s:g} s: {json.dumps(self.application())}")
            time.sleep(POLL_S)

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Those whose title begins with that."""
        found = psutil.Process(self.pid).children(recursive=True)
        return [one for one in found if " ".join(command_line(one)).startswith(title)]

    def _ask(self, *command: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith(DONE):
                return json.loads(line.removeprefix(DONE))
        raise NoServer(f"the nodes ended at {command}")


@contextmanager
def cluster(
    nodes: Mapping[str, Fields], environment: Mapping[str, str] = ENVIRONMENT, token: str = ""
) -> Generator[Nodes]:
    """nodes: by name; the first is the head. environment: beside this process' own, for all of Ray's."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.nodes"],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        running = Nodes(process, free_port(), token)
        try:
            for number, (name, fields) in enumerate(nodes.items()):
                running.add(name, **fields, **({} if number else running.head))
            yield running
        finally:
            process.communicate(timeout=STOP_TIMEOUT_S)


def serve_config(settings: Mapping[str, Any], port: int) -> dict[str, Any]:
    """Ray Serve's configuration as in a RayService. settings: the configuration of the application."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serve.deployments.app:build",
                "args": {"auth": {"allow_anonymous": True}, **settings},
            }
        ],
    }
