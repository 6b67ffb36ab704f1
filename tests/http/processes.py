"""The server's processes, which are descendants of the one that runs the tests."""

from pathlib import Path

import psutil

SESSION = "--session_dir="


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment's replicas."""
    title = f"ray::ServeReplica:retouch:{deployment}"
    return [process for process in _descendants() if _title(process).startswith(title)]


def session_folder() -> Path:
    """Where Ray writes its logs."""
    words = [word for process in _descendants() for word in _title(process).split() if word.startswith(SESSION)]
    return Path(words[0].removeprefix(SESSION))


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
