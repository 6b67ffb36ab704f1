"""A Ray of three nodes on this machine with the server on it: a head that runs nothing, a node for HTTP and pictures,
and one with a GPU that is not there.

`python -m benchmarks.scale.cluster CONFIG PORT` prints the ports of the nodes' metrics by the node's name once it
serves on the port, and ends with its standard input.
"""

import json
import os
import sys
from pathlib import Path

MEMORY_BYTES = 500_000_000
NODES = {"head": (0, 0), "pictures": (4, 0), "gpu": (0, 1)}
"""By name, their CPUs and GPUs."""


def main() -> None:
    config, port = Path(sys.argv[1]), int(sys.argv[2])
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray  # noqa: PLC0415  # Here and below: Ray reads its environment when it is imported.
    from ray import serve as ray_serve  # noqa: PLC0415
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from serve.deployments import app  # noqa: PLC0415

    cluster = Cluster()
    nodes = {
        name: cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=MEMORY_BYTES)
        for name, (cpus, gpus) in NODES.items()
    }
    ray.init(address=cluster.address, log_to_driver=False)
    ports = {node["NodeID"]: node["MetricsExportPort"] for node in ray.nodes()}
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    ray_serve.run(app.build({"config": str(config)}), name=app.APPLICATION, route_prefix="/")
    print(json.dumps({name: ports[node.node_id] for name, node in nodes.items()}), flush=True)
    sys.stdin.read()
    ray_serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
