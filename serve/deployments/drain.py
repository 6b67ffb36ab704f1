"""`python -m serve.deployments.drain SECONDS`, for a Ray worker that is about to be stopped: no edit is lost to it.

Ray Serve starts elsewhere what runs on this node, and stops it here once that is ready, or where there is no room for
it when just the time is left that a replica has to end what it has begun; the proxy goes last. This waits until none of
them runs here any more.
"""

import subprocess
import sys
import time
from pathlib import Path

import psutil

REPLICA, PROXY = "ray::ServeReplica:", "ray::ProxyActor"
"""What the titles of their processes begin with."""
CONTAINERS_FIRST = 1
"""The process that a container's others descend from."""
LOOK_EVERY_S = 1.0


def main() -> None:
    """Exits with 1 where Ray refuses to drain this node, or some still run after those seconds."""
    seconds = int(sys.argv[1])
    sys.exit(0 if drain(seconds, psutil.Process(CONTAINERS_FIRST)) else 1)


def drain(seconds: int, root: psutil.Process, leaving: tuple[str, ...] = (REPLICA, PROXY)) -> bool:
    """Whether this node runs none of them any more. seconds: from when Ray agrees, which takes some more of them. root:
    that all its processes descend from. leaving: by the titles of their processes; the head keeps its proxy."""
    if not ask(seconds):
        return False
    until = time.monotonic() + seconds  # as Ray counts them, from when it was asked
    while runs(root, leaving):
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def ask(seconds: int) -> bool:
    """Whether Ray agrees to move everything away from the node that this process runs on."""
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the machine is to be stopped", "--deadline-remaining-seconds", str(seconds)]
    return subprocess.run(command, check=False).returncode == 0


def runs(root: psutil.Process, titles: tuple[str, ...]) -> bool:
    return any(_title(process).startswith(titles) for process in root.children(recursive=True))


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


if __name__ == "__main__":
    main()
