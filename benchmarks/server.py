"""A server of a benchmark's own: `retouch serve` with a configuration made here, on a free port of 127.0.0.1.

    with serving(models=[model], limits={"requests_in_flight": 64}) as server:
        httpx.get(f"{server.url}/v1/models")

Its configuration, results and measurements of models lie in a temporary folder, which goes with it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.errors import NoServer

MIB = 2**20
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.5
REPLICA_TITLE = "ray::ServeReplica:retouch:"
"""Of a process; behind it come the deployment and, while it is called, the method."""
ENDED = "ended"

Model = Mapping[str, Any]
"""An entry of the configuration's list `models`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident and proportional set size: the first counts pages that several processes share in each of them.

    shared_mib: of the proportional set, what lies in shared memory. On a server of Ray's that is its object store.
    """

    rss_mib: float
    pss_mib: float
    shared_mib: float = 0.0

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.rss_mib + other.rss_mib, self.pss_mib + other.pss_mib, self.shared_mib + other.shared_mib)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """pid: of the process at the top of its tree. folder: temporary, with the configuration in it."""

    url: str
    pid: int
    folder: Path

    @property
    def logs(self) -> Path:
        """The folder of Ray Serve's logs, a file for each replica. Raises NoServer once the server has ended."""
        words = [word for one in self.processes() for word in command_line(one)]
        folder = next((word.partition("=")[2] for word in words if word.startswith("--log_dir=")), None)
        if folder is None:
            raise NoServer(f"no process below {self.pid} says where it logs")
        return Path(folder) / "serve"

    def processes(self) -> list[psutil.Process]:
        """All of its tree that are alive; those of Ray among them."""
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas: `ingress`, `codec`, `editor-...`."""
        return [one for one in self.processes() if kind_of(one) == deployment]

    def editors(self, model: str) -> list[psutil.Process]:
        """The processes of a model's replicas, by its id."""
        return self.replicas("editor-" + re.sub(r"[^A-Za-z0-9]+", "-", model).lower())

    def memory_mib(self) -> float:
        """Proportional set size of all its processes, so that shared pages count once."""
        return sum(one.pss_mib for one in self.memory_by_kind().values())

    def memory_by_kind(self) -> dict[str, Memory]:
        """Of each kind of process, as `kind_of` names it, summed over its processes."""
        kinds: dict[str, Memory] = {}
        for process in self.processes():
            kind = kind_of(process)
            kinds[kind] = kinds.get(kind, Memory(0.0, 0.0)) + memory_of(process)
        kinds.pop(ENDED, None)
        return kinds

    def cpu_s_by_kind(self) -> dict[str, float]:
        """Seconds of a core that the processes alive have taken, of each kind."""
        kinds: dict[str, float] = {}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                kind = kind_of(process)
                kinds[kind] = kinds.get(kind, 0.0) + times.user + times.system
        return kinds


@contextmanager
def serving(models: Sequence[Model] | None = None, **sections: Mapping[str, Any]) -> Generator[RunningServer]:
    """A server that is ready, for the time of the body. models: None is the embedded one.

    sections: of the configuration, such as `limits`; of `server` and `storage` the keys that are given.
    Raises NoServer, with what the command said, where it does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="retouch-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        config, port = _configured(folder, models, sections)
        process = _started(folder, config)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, folder)
            yield RunningServer(url, process.pid, folder)
        finally:
            _stopped(process)


def free_port() -> int:
    """Of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_line(process: psutil.Process) -> list[str]:
    """Its words, or the title that it has given itself as one; none once it has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def kind_of(process: psutil.Process) -> str:
    """The deployment of a replica, the class of Ray's other actors, else the script or the program."""
    words = command_line(process)
    if not words:
        return ENDED
    if words[0].startswith("ray::"):
        return words[0].removeprefix(REPLICA_TITLE).removeprefix("ray::").partition(".")[0]
    interpreted = Path(words[0]).name.startswith("python")
    script = next((word for word in words[1:] if not word.startswith("-")), words[0]) if interpreted else words[0]
    return Path(script).stem


def memory_of(process: psutil.Process) -> Memory:
    """0 once it has ended. Where the system tells no proportional set size, the unique one stands for it."""
    try:
        info = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return Memory(0.0, 0.0)
    return Memory(info.rss / MIB, getattr(info, "pss", info.uss) / MIB, _shared_mib(process.pid))


def _shared_mib(pid: int) -> float:
    """0 where Linux does not tell it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) / 1024 for line in lines if line.startswith("Pss_Shmem:"))


def _configured(
    folder: Path, models: Sequence[Model] | None, sections: Mapping[str, Mapping[str, Any]]
) -> tuple[Path, int]:
    """The configuration's file, and the port in it. It is JSON, which is YAML as well."""
    server: dict[str, Any] = {"port": free_port(), "cache_folder": folder / "cache", **sections.get("server", {})}
    storage = {"folder": folder / "files", **sections.get("storage", {})}
    values = {**sections, "server": server, "storage": storage, **({"models": models} if models else {})}
    path = folder / "retouch.yaml"
    path.write_text(json.dumps(values, indent=2, default=str), encoding="utf-8")
    return path, server["port"]


def _started(folder: Path, config: Path) -> subprocess.Popen[bytes]:
    """Without tokens: Ray would write one into the home folder, and nothing but this machine reaches the server."""
    command = [Path(sys.executable).parent / "retouch", "serve", "--config", config]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with open(folder / "said.txt", "wb") as said:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        while time.monotonic() < give_up_at and process.poll() is None:
            with suppress(httpx.TransportError):
                if client.get("/readyz").status_code == 200:
                    return
            time.sleep(POLL_S)
    said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip()
    raise NoServer(f"the server was not ready within {START_TIMEOUT_S:g} s; it said: {said or 'nothing'}")


def _stopped(process: subprocess.Popen[bytes]) -> None:
    """A second signal ends what the first did not."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
