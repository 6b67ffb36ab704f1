"""A real Triton Inference Server from the package index, which runs models of the Python backend on a CPU."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import grpc
import onnxruntime
import psutil
import pytest
from tritonclient.grpc import service_pb2_grpc

from serve.backends.triton_words import calls
from tests.http.conftest import free_port

PACKAGE = "nvidia-pytriton==0.7.0"
"""Brings Triton 2.51, and the stubs of the Python backend for Python 3.8 to 3.13."""
FOLDER = Path(__file__).parents[2] / ".cache" / "triton" / PACKAGE.replace("==", "-")
OLDEST_GLIBC = (2, 35)
START_S = 60
LIBRARY = Path(str(sysconfig.get_config_var("LIBDIR")))
"""Where this interpreter's libpython lies, if it has one; else the system's is found."""


def installed() -> Path:
    """The folder of the server, which is put there once. Skips the test where it cannot be, but fails it in CI."""
    if not FOLDER.is_dir():
        _skip_where_there_is_none()
        _install()
    return FOLDER / "pytriton" / "tritonserver"


class Triton:
    """One server over a repository, at the same address each time that it is started. folder: for its log."""

    def __init__(self, repository: Path, folder: Path, *options: str) -> None:
        self._tree = installed()
        self._log = folder / "triton.txt"
        self.repository, self._options = repository, options
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = f"triton-test-{uuid.uuid4().hex[:8]}"
        self.address = f"127.0.0.1:{free_port()}"

    def start(self) -> "Triton":
        """Returns once all models are ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, env=_environment())
        give_up_s = time.monotonic() + START_S
        with grpc.insecure_channel(self.address) as channel:
            ready = service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady
            while time.monotonic() < give_up_s and self._process.poll() is None:
                with suppress(grpc.RpcError):
                    if ready(calls.ServerReadyRequest(), timeout=1, wait_for_ready=True).ready:
                        return self
        self.stop()
        raise AssertionError(f"Triton did not become ready:\n{self.said()}")

    def kill(self) -> None:
        """At once, with the processes of its models; what it leaves in shared memory is taken away."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        for process in (self._process, *family):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait()
        for left in Path("/dev/shm").glob(f"{self._shared}*"):
            left.unlink(missing_ok=True)

    def kill_models(self) -> None:
        """The processes in which models run; the server goes on without them."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            process.kill()

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        threads = list(Path(f"/proc/{self._process.pid}/task").iterdir())
        while any(") T " not in (thread / "stat").read_text() for thread in threads):
            time.sleep(0.01)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
                return
            self.kill()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _command(self) -> list[str]:
        return [
            str(self._tree / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            f"--backend-directory={self._tree / 'backends'}",
            "--disable-auto-complete-config",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.address.rpartition(':')[2]}",
            "--allow-http=false",
            "--allow-metrics=false",
            f"--backend-config=python,shm-region-prefix-name={self._shared}",
            *self._options,
        ]


def _environment() -> dict[str, str]:
    """The models find this environment's packages, and the stub a libpython."""
    libraries = f"{FOLDER / 'nvidia_pytriton.libs'}:{LIBRARY}"
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(Path(onnxruntime.__file__).parents[1])}


def _do_without(reason: str) -> NoReturn:
    """A machine that answers for others must not pass without what it should have tried."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _skip_where_there_is_none() -> None:
    _, glibc = platform.libc_ver()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        _do_without(f"{PACKAGE} is for Linux on x86-64; this is {sys.platform} on {platform.machine()}")
    if not glibc or tuple(int(part) for part in glibc.split(".")) < OLDEST_GLIBC:
        _do_without(f"{PACKAGE} needs glibc 2.35; this is {glibc or 'another library'}")


def _install() -> None:
    """Into a folder of its own, without the packages that it names, of which it needs none to run."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as name:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--target", name]
        done = subprocess.run([*command, PACKAGE], check=False, capture_output=True, text=True)
        if done.returncode:
            said = next(reversed(done.stderr.strip().splitlines()), "nothing")
            _do_without(f"{PACKAGE} cannot be installed from the package index: {said}")
        _make_runnable(Path(name) / "pytriton" / "tritonserver")
        with suppress(OSError):  # another run was first
            Path(name).rename(FOLDER)


def _make_runnable(tree: Path) -> None:
    stub = tree / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    if not stub.is_dir():
        _do_without(f"{PACKAGE} has no stub for Python {sys.version_info.major}.{sys.version_info.minor}")
    shutil.copy(stub / "triton_python_backend_stub", tree / "backends" / "python")
    for program in (tree / "bin" / "tritonserver", tree / "backends" / "python" / "triton_python_backend_stub"):
        program.chmod(0o755)
