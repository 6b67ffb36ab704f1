"""A Ray of one node whose replica is at work when the node is drained. Prints what came of both."""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import ray
from ray import serve as ray_serve

from serve.deployments.drain import REPLICA, drain, runs
from tests.http.conftest import free_port

WORK_S = 3
GRACE_S = 6
SECONDS = 15


@ray_serve.deployment(graceful_shutdown_timeout_s=GRACE_S, ray_actor_options={"num_cpus": 0.1})
class Worker:
    async def __call__(self, _request: object) -> str:
        await asyncio.sleep(WORK_S)
        return "done"


def main() -> None:
    port = free_port()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    ray_serve.run(Worker.bind())
    node = psutil.Process()
    before = runs(node, (REPLICA,))
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(httpx.get, f"http://127.0.0.1:{port}/", timeout=60)
        drained = drain(SECONDS, node, leaving=(REPLICA,))
        print(json.dumps({"before": before, "drained": drained, "answer": answer.result().text}))
    ray.shutdown()


if __name__ == "__main__":
    main()
