"""A Ray of two nodes, as KubeRay makes it: a head that runs nothing, with a dashboard, and a worker. The arguments are
the ports of the dashboard and of each node's agent. Prints a line when it is up, and ends with its standard input."""

import sys

from ray.cluster_utils import Cluster

MEMORY = 500_000_000


def main() -> None:
    dashboard, *agents = map(int, sys.argv[1:])
    cluster = Cluster()
    head = cluster.add_node(
        num_cpus=0,
        object_store_memory=MEMORY,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard,
        dashboard_agent_listen_port=agents[0],
    )
    worker = cluster.add_node(num_cpus=4, object_store_memory=MEMORY, dashboard_agent_listen_port=agents[1])
    print("up", flush=True)
    sys.stdin.read()
    cluster.remove_node(worker)
    cluster.remove_node(head)


if __name__ == "__main__":
    main()
