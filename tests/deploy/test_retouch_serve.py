"""`retouch serve` as a user runs it: a process in a terminal, an edit, Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from tests import checkpoints, pictures
from tests.http.api import EDITS, drawing_request, files
from tests.http.conftest import free_port
from tests.waiting import eventually

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


def test_a_server_that_is_told_to_stop_ends_the_edits_that_it_has_begun_and_takes_no_more(tmp_path: Path):
    port, config = free_port(), tmp_path / "retouch.yaml"
    weights = checkpoints.flux_kontext(tmp_path / "weights")
    config.write_text(f"models: [{{id: main, family: flux_kontext, weights: {weights}, backend: simulated}}]")
    with serving(port, "--config", str(config)) as server, ThreadPoolExecutor() as threads:
        url = f"http://127.0.0.1:{port}"
        begun = [threads.submit(_post, url, num_inference_steps=30, stream=streams) for streams in (False, True)]
        eventually(lambda: _told(url).endswith(" 2.0"))
        server.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == 503)
        late = _post(url, num_inference_steps=1)
        assert (late.status_code, late.headers["x-should-retry"]) == (503, "true")
        answer, stream = (one.result() for one in begun)
        assert len(files(answer)) == 1
        assert "event: image_edit.completed" in stream.text
        assert server.wait(STOP_S) == 0


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


def _post(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(url + EDITS, json=drawing_request(model="main", **fields), timeout=120)


def _told(url: str) -> str:
    """How many edits are under way, as the server's metrics tell it."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return "".join(line for line in lines if line.startswith("retouch_requests_in_flight{"))


def _edit(photo: Path, port: int, prompt: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [RETOUCH, "edit", str(photo), prompt, "--url", f"http://127.0.0.1:{port}", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=photo.parent)
