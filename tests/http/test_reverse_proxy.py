"""Behind a real nginx, set up as the README says: answers, links, streams and leaving go through it."""

import base64
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.http.api import EDITS, canvas_request, draw, drawing_request, files, pixels, refusal
from tests.http.conftest import TINY, Server, free_port
from tests.http.nginx import nginx
from tests.http.test_life import Stats
from tests.http.test_streams import COMPLETED, PARTIAL, PROGRESS, WATCHED, arriving
from tests.http.wire import Wire
from tests.waiting import eventually

README = Path(__file__).parents[2] / "README.md"


def _block(server: Server, port: int) -> str:
    """The README's, for this server, without TLS."""
    (told,) = re.findall(r"```nginx\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for ours, readmes in ((f"listen 127.0.0.1:{port};", r"listen 443 ssl;"), ("", r"ssl_certificate\w* .*?;")):
        told, count = re.subn(readmes, ours, told)
        assert count
    return told.replace("http://127.0.0.1:8000", server.url)


@pytest.fixture(scope="module")
def url(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with nginx(_block(server, port), f"{url}/healthz", tmp_path_factory.mktemp("nginx")):
        yield url


@pytest.fixture
def outside(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client


def test_an_edit_and_its_errors_come_through_as_they_are(outside: httpx.Client, http: httpx.Client) -> None:
    assert draw(outside) == draw(http)
    refused = outside.post(EDITS, json=drawing_request(n=11), headers={"x-request-id": "mine"})
    assert refusal(refused) == (400, "invalid_request_error", "invalid_value", "n")
    assert refused.headers["x-request-id"] == "mine"


def test_a_link_leads_through_the_proxy(outside: httpx.Client, url: str) -> None:
    (item,) = outside.post(EDITS, json=canvas_request(response_format="url")).json()["data"]
    assert item["url"].startswith(f"{url}/v1/files/")
    assert pixels(httpx.get(item["url"]).content).shape == (256, 256, 3)


def test_pictures_as_large_as_the_server_takes_them_pass(outside: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1160, 1180, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "png")
    assert 3.7 * 2**20 < len(file.getvalue()) < 4 * 2**20
    body = canvas_request(images=[base64.b64encode(file.getvalue()).decode()])
    assert len(files(outside.post(EDITS, json=body))) == 1


def test_events_are_not_held_back(outside: httpx.Client) -> None:
    body = drawing_request(stream=True, num_inference_steps=40, size="512x512", partial_images=2)
    events = list(arriving(outside, body, WATCHED))
    assert [event.name for event in events if event.name != PROGRESS] == [PARTIAL, PARTIAL, COMPLETED]
    assert events[0].after_s < 0.5 * events[-1].after_s


def test_the_official_client_streams_through_it(url: str, http: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        body = drawing_request(num_inference_steps=4)
        picture = base64.b64decode(body.pop("images")[0])
        extra = {name: body[name] for name in ("num_inference_steps", "seed", "strength")}
        stream = client.images.edit(
            image=picture, prompt=body["prompt"], size="256x256", stream=True, partial_images=1, extra_body=extra
        )
        *_, completed = stream
    assert [base64.b64decode(completed.b64_json)] == draw(http, num_inference_steps=4)


def test_a_client_that_leaves_the_proxy_frees_its_row(url: str, engine_stats: Stats) -> None:
    before = engine_stats(TINY)
    with Wire(url) as wire:
        wire.send_edit(drawing_request(num_inference_steps=100, size="1024x1024"))
        eventually(lambda: engine_stats(TINY).row_steps > before.row_steps)
    eventually(lambda: engine_stats(TINY).cancelled_rows == before.cancelled_rows + 1)
    assert engine_stats(TINY).row_steps - before.row_steps < 100


def test_edits_that_come_together_are_each_answered(outside: httpx.Client, http: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda seed: draw(outside, seed=seed), range(4)))
    assert drawn == [draw(http, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("path", ["/", "/playground/app.js", "/docs", "/openapi.json", "/v1/models"])
def test_the_pages_come_through_as_they_are(outside: httpx.Client, http: httpx.Client, path: str) -> None:
    through = outside.get(path)
    assert (through.status_code, through.content) == (200, http.get(path).content)
