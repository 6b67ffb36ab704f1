"""Edits through `retouch serve` whose components a real Triton runs, also while that dies and comes back."""

import base64
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from benchmarks.server import RunningServer, serving
from serve.backends.manifest import triton_name
from serve.settings import ModelSettings, embedded_model
from tests.http.api import EDITS, Fields, files, pixels, refusal
from tests.triton.repository import add_model
from tests.triton.server import Triton
from tests.waiting import eventually

COFFEE = Path(__file__).parents[2] / "examples" / "coffee.png"
LOCAL = "in-process"
SEEDS = (1, 2, 3, 4)
CALLERS = 4
REQUESTS = 9
"""Of each caller: one before the server dies, at most as many as AWAY while it is away, the rest when it is back."""
AWAY = 3
WAIT_S = 120


@dataclass(frozen=True)
class Served:
    triton: Triton
    server: RunningServer
    http: httpx.Client
    model: str


@dataclass(frozen=True)
class Moments:
    """begun: every caller has an answer. away: one was told that the server is away. back: it is there again."""

    begun: threading.Barrier = field(default_factory=lambda: threading.Barrier(CALLERS + 1))
    away: threading.Event = field(default_factory=threading.Event)
    back: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("deploy")
    changes = {"model_repository": folder / "repository", "precision": "float32", "threads": 1}
    model = embedded_model().model_copy(update=changes)
    triton = Triton(folder / "repository", folder)
    _, parts = add_model(model)
    for name in parts:
        shutil.copytree(
            folder / "repository" / triton_name(model.id, name), folder / "local" / triton_name(LOCAL, name)
        )
    by_triton = {**_settings(model), "backend": "triton", "triton": {"address": triton.address, "timeout_s": 20}}
    local = {**_settings(model), "id": LOCAL, "backend": "onnxruntime", "model_repository": str(folder / "local")}
    before = _shared_memory()
    try:
        triton.start()
        with serving(models=[by_triton, local]) as server, httpx.Client(base_url=server.url, timeout=120) as http:
            yield Served(triton, server, http, model.id)
        assert _shared_memory() <= before
    finally:
        triton.stop()


def test_a_seed_gives_the_pixels_that_it_gives_without_triton(served: Served):
    """The files themselves differ: they tell the model."""
    asked = ((served.model, 7), (LOCAL, 7), (served.model, 8))
    drawn = [pixels(files(served.http.post(EDITS, json=_edit(model, seed)))[0]) for model, seed in asked]

    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_triton_may_die_and_come_back_under_load(served: Served):
    expected = {seed: files(served.http.post(EDITS, json=_edit(served.model, seed))) for seed in SEEDS}
    (before,) = served.server.editors(served.model)
    moments = Moments()

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(_call_on, served, seed, moments) for seed in SEEDS]
        moments.begun.wait(WAIT_S)
        time.sleep(0.2)
        served.triton.kill()
        assert moments.away.wait(WAIT_S)
        assert served.http.get("/readyz").status_code == 503
        served.triton.start()
        moments.back.set()
        answers = {seed: caller.result() for seed, caller in zip(SEEDS, callers, strict=True)}

    for seed, ends in answers.items():
        assert len(ends) == REQUESTS
        for answer in ends:
            if answer.status_code == 200:
                assert files(answer) == expected[seed]
            else:
                assert refusal(answer) in (
                    (503, "server_error", "backend_unavailable", None),
                    (429, "rate_limit_error", "server_overloaded", None),
                )
                assert int(answer.headers["retry-after"]) >= 1
        assert {answer.status_code for answer in ends[:1] + ends[-1:]} == {200}
    eventually(lambda: served.http.get("/readyz").status_code == 200)
    assert files(served.http.post(EDITS, json=_edit(served.model, 1))) == expected[1]
    assert [process.pid for process in served.server.editors(served.model)] == [before.pid]


def _call_on(served: Served, seed: int, moments: Moments) -> list[httpx.Response]:
    """One request after the other; every caller has an answer before the server dies, and one after it is back."""
    answers = [served.http.post(EDITS, json=_edit(served.model, seed))]
    moments.begun.wait(WAIT_S)
    failed = 0
    while len(answers) < REQUESTS:
        answers.append(served.http.post(EDITS, json=_edit(served.model, seed)))
        if answers[-1].status_code == 200:
            continue
        moments.away.set()
        failed += 1
        if failed >= AWAY:
            assert moments.back.wait(WAIT_S)
            time.sleep(2.0)  # the channel looks for the server once a second
    return answers


def _shared_memory() -> set[Path]:
    """All but what living processes of other servers have, which is named by them."""
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    theirs = set(psutil.pids()) - ours
    made_by = re.compile(r"retouch-(\d+)-")
    found = Path("/dev/shm").glob("*retouch-*")
    return {path for path in found if not ((by := made_by.search(path.name)) and int(by[1]) in theirs)}


def _settings(model: ModelSettings) -> dict[str, Any]:
    return {
        **model.model_dump(mode="json", include={"id", "family", "weights", "model_repository"}),
        "threads": 1,
        "profile_s": 1.0,
    }


def _edit(model: str, seed: int) -> Fields:
    source = base64.b64encode(COFFEE.read_bytes()).decode()
    return {
        "model": model,
        "images": [source],
        "prompt": "make it black and white",
        "size": "256x256",
        "response_format": "b64_json",
        "num_inference_steps": 2,
        "seed": seed,
    }
