"""A server with keys that callers reach below a path of another address, through a real nginx."""

import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve.auth import create_key
from tests import checkpoints, pictures
from tests.deploy.test_retouch_serve import RETOUCH, serving
from tests.http.api import EDITS, canvas_request, pixels, refusal
from tests.http.conftest import free_port
from tests.http.nginx import nginx

CONFIG = """
models: [{{id: open, family: flux_kontext, weights: {folder}/weights, backend: simulated}}]
storage: {{folder: {folder}/files}}
server: {{cache_folder: {folder}/cache, public_url: "{url}"}}
auth: {{keys_file: {folder}/keys.yaml}}
links: {{hosts: [localhost]}}
"""
BLOCK = """
server {{
    listen 127.0.0.1:{port};
    location /tools/retouch/ {{ proxy_pass http://127.0.0.1:{to}/; }}
}}
"""
PATH = "/tools/retouch"


@dataclass(frozen=True)
class Published:
    """url: by which callers reach it."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Generator[Published]:
    folder, own, port = tmp_path_factory.mktemp("published"), free_port(), free_port()
    url = f"http://127.0.0.1:{port}{PATH}"
    checkpoints.flux_kontext(folder / "weights")
    key = create_key(folder / "keys.yaml", "ada", None, {"requests_per_minute": 100})
    (config := folder / "retouch.yaml").write_text(CONFIG.format(folder=folder, url=url))
    block = BLOCK.format(port=port, to=own)
    with serving(own, "--config", str(config)), nginx(block, f"{url}/healthz", folder):
        yield Published(url, key)


def _edit(published: Published, **fields: Any) -> httpx.Response:
    return httpx.post(published.url + EDITS, json=canvas_request(**fields), headers=published.headers, timeout=60)


def test_links_lead_to_where_callers_reach_it(published: Published) -> None:
    (item,) = _edit(published, response_format="url").json()["data"]
    assert item["url"].startswith(f"{published.url}/v1/files/")
    assert pixels(httpx.get(item["url"]).content).shape == (256, 256, 3)
    assert refusal(httpx.get(item["url"] + "0"))[:3] == (403, "permission_error", "invalid_signature")


def test_keys_and_limits_come_through(published: Published) -> None:
    assert _edit(published).headers["x-ratelimit-limit-requests"] == "100"
    refused = httpx.post(published.url + EDITS, json=canvas_request())
    assert refusal(refused) == (401, "authentication_error", "missing_api_key", None)
    assert refused.headers["www-authenticate"] == "Bearer"


def test_the_description_names_the_path(published: Published) -> None:
    assert httpx.get(f"{published.url}/openapi.json").json()["servers"] == [{"url": PATH}]


@pytest.mark.parametrize("path", ["/", "/playground/app.js", "/docs", "/docs/swagger-ui-bundle.js"])
def test_the_pages_are_there(published: Published, path: str) -> None:
    assert httpx.get(published.url + path).status_code == 200


def test_the_official_client_and_the_command_reach_it(published: Published, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(pictures.rgb((256, 256)))
    with openai.OpenAI(base_url=f"{published.url}/v1", api_key=published.key) as client:
        assert [model.id for model in client.models.list()] == ["open"]
        assert client.images.edit(image=photo.read_bytes(), prompt="make it red", size="256x256").data
    command = [RETOUCH, "edit", str(photo), "make it red", "--url", published.url, "--api-key", published.key]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_a_picture_behind_a_link_is_not_fetched_from_this_network_though_its_host_is_allowed(
    published: Published,
) -> None:
    refused = _edit(published, images=["https://localhost/photo.png"])
    assert refusal(refused) == (400, "invalid_request_error", "invalid_value", "images[0]")
    assert refused.json()["error"]["message"] == "images[0] leads to an address that is not public"
