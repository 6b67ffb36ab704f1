"""A server's processes, which are descendants of the one that started it."""

from pathlib import Path

import psutil

SESSION = "--session_dir="


def replicas(deployment: str, of: int | None = None) -> list[psutil.Process]:
    """The processes of a deployment's replicas. of: process that started the server; by default this one."""
    title = f"ray::ServeReplica:retouch:{deployment}"
    return [process for process in _descendants(of) if _title(process).startswith(title)]


def session_folder(of: int) -> Path:
    """Where the Ray that this process started writes its logs."""
    words = {word for process in _descendants(of) for word in _title(process).split() if word.startswith(SESSION)}
    (only,) = words
    return Path(only.removeprefix(SESSION))


def _descendants(of: int | None) -> list[psutil.Process]:
    return psutil.Process(of).children(recursive=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
