"""A real Prometheus that scrapes one server, with the alerts of `k8s/components/monitoring`."""

import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.http.conftest import free_port
from tests.k8s.prometheus import program, rules
from tests.waiting import eventually

STOP_S = 30
INTERVAL = "2s"


class Prometheus:
    """What it has scraped, by its HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def vector(self, query: str) -> Mapping[tuple[str, ...], float]:
        """What a query answers now, by the values of its labels in the order of their names."""
        data = self.ask("query", query=query)
        if data["resultType"] == "scalar":
            return {(): float(data["result"][1])}
        return {
            tuple(value for _, value in sorted(one["metric"].items())): float(one["value"][1]) for one in data["result"]
        }


@contextmanager
def scraping(port: int, folder: Path) -> Generator[Prometheus]:
    """It scrapes the server at that port of this machine."""
    own = free_port()
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules()))
    target = {"job_name": "retouch", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    every = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    configuration = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": [target]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{own}", "--log.level=error"]
    process = subprocess.Popen(command)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{own}")
        eventually(prometheus.is_ready)
        yield prometheus
    finally:
        process.terminate()
        process.wait(STOP_S)
