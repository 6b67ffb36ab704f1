"""`retouch serve` as a user runs it: a process in a terminal, an edit, Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests import pictures
from tests.http.conftest import free_port

RETOUCH = str(Path(sys.executable).parent / "retouch")
START_S = 180
STOP_S = 60
READY = b"Ctrl-C stops the server."


def test_a_server_starts_edits_and_leaves_nothing_behind(tmp_path: Path, embedded_engines: None):
    port = free_port()
    photo = tmp_path / "photo.png"
    photo.write_bytes(pictures.rgb((96, 64)))
    with serving(port) as server:
        family = [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]
        edited = _edit(photo, port, "make it darker", "--seed", "7", "--size", "256x256")
        assert edited.returncode == 0, edited.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(STOP_S) == 0
    picture = np.asarray(Image.open(tmp_path / "photo-edited.png"))
    assert picture.shape == (256, 256, 3)
    assert picture.mean() < np.asarray(Image.open(photo)).mean()
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path):
    config = tmp_path / "retouch.yaml"
    config.write_text(f"models: [{{id: lost, family: pixel_edit, weights: {tmp_path / 'nowhere'}}}]")
    command = [RETOUCH, "serve", "--config", str(config), "--port", str(free_port())]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=START_S)
    assert ended.returncode == 2
    said = f"retouch: weights '{tmp_path / 'nowhere'}' is no model folder: it has no model_index.json"
    assert ended.stderr.splitlines()[1:] == [said]


@contextmanager
def serving(port: int, *options: str) -> Generator[subprocess.Popen[bytes]]:
    """`retouch serve` with these options, ready to edit."""
    command = [RETOUCH, "serve", "--port", str(port), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert server.stdout is not None
        assert any(READY in line for line in server.stdout), "it did not start"
        yield server
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(STOP_S)


def _edit(photo: Path, port: int, prompt: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [RETOUCH, "edit", str(photo), prompt, "--url", f"http://127.0.0.1:{port}", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=photo.parent)
