"""The server's processes, which are descendants of the one that runs the tests."""

import psutil


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas."""
    title = f"ray::ServeReplica:retouch:{deployment}"
    return [process for process in psutil.Process().children(recursive=True) if _title(process).startswith(title)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
