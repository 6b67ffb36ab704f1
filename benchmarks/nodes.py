"""Several Ray nodes on this machine, each with processes of its own: `python -m benchmarks.nodes`.

A process apart, since one process can have one cluster. Commands are lines of JSON on standard input, each a list of a
method of `Nodes` and what it takes, and each is answered by a line of JSON, which begins with `DONE`. All nodes end
with standard input.
"""

import json
import sys
from contextlib import suppress
from typing import Any

DONE = "done "
"""Before an answer, since Ray prints as well."""


class Nodes:
    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - not for those who only speak with this process

        self._cluster: Any = Cluster()
        self._nodes: dict[str, Any] = {}

    def add(self, name: str, fields: dict[str, Any]) -> str:
        """Start a node, the head where there is none. fields: of Ray's `RayParams`. Answers its id."""
        self._nodes[name] = self._cluster.add_node(**fields)
        return self._nodes[name].node_id

    def remove(self, name: str) -> None:
        """End all its processes by SIGKILL."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def kill_gcs(self) -> None:
        """End, by SIGKILL, the process that holds the cluster's state."""
        self._cluster.head_node.kill_gcs_server(check_alive=False)  # it ends by itself where its Redis is away

    def start_gcs(self) -> None:
        self._cluster.head_node.start_gcs_server()

    def end(self) -> None:
        """The head last."""
        for name in reversed(list(self._nodes)):
            self.remove(name)


def main() -> None:
    nodes = Nodes()
    with suppress(BrokenPipeError):
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            print(DONE + json.dumps(getattr(nodes, command)(*arguments)), flush=True)
    nodes.end()


if __name__ == "__main__":
    main()
