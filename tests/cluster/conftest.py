"""A Ray cluster for the tests of this folder: a head that runs nothing of ours, and workers with a GPU that is none."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.cluster import ENVIRONMENT, Nodes, cluster, serve_config
from tests.http.conftest import free_port

WORKER = {"num_cpus": 4, "num_gpus": 1}
QUICK = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}


@dataclass(frozen=True)
class Deployed:
    """url: of the API."""

    nodes: Nodes
    url: str
    folder: Path

    def model(self, name: str, **settings: Any) -> dict[str, Any]:
        """One that computes nothing, and takes a tenth of a second for a step."""
        simulated = {"timings": "linear", "speed": 4}
        common = {"family": "flux_kontext", "weights": str(self.folder), "backend": "simulated", "simulated": simulated}
        return {"id": name, **common, "num_cpus": 0.1, "threads": 1, "max_batch": 2, **settings}

    def config(self, *models: dict[str, Any]) -> dict[str, Any]:
        server = {"ingress_replicas": 2, "codec_replicas": 2, "cache_folder": str(self.folder / "cache")}
        settings = {"models": models, "server": server, "storage": {"folder": str(self.folder / "files")}}
        return serve_config(settings, int(self.url.rpartition(":")[2]))


@contextmanager
def deployed(folder: Path) -> Generator[Deployed]:
    """Three nodes, and nothing deployed yet."""
    flux_kontext_configurations(folder)
    with cluster({"head": {"num_cpus": 0}, "one": WORKER, "two": WORKER}, {**ENVIRONMENT, **QUICK}) as nodes:
        yield Deployed(nodes, f"http://127.0.0.1:{free_port()}", folder)
