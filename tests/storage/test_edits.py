"""Edits over HTTP that are answered by links into a real S3, as a server from the command line gives them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.test_retouch_serve import RETOUCH, START_S, serving
from tests.http.api import EDITS, canvas_request, drawing_request, files, refusal
from tests.http.conftest import free_port
from tests.storage.ceph import Ceph
from tests.storage.conftest import BUCKET, PREFIX, bucket_settings


def written(path: Path, ceph: Ceph, **keys: Any) -> Path:
    storage = bucket_settings(ceph.endpoint, **keys).model_dump(exclude_unset=True)
    path.write_text(yaml.safe_dump({"storage": storage}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def http(
    running_ceph: Ceph, tmp_path_factory: pytest.TempPathFactory, embedded_engines: None
) -> Iterator[httpx.Client]:
    config = written(tmp_path_factory.mktemp("server") / "retouch.yaml", running_ceph)
    port = free_port()
    with serving(port, "--config", str(config)), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        yield http


def links(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["url"] for item in answer.json()["data"]]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_the_links_of_an_edit_give_the_pictures_that_base64_would(http: httpx.Client, ceph: Ceph, output_format: str):
    request = drawing_request(n=3, output_format=output_format)
    urls = links(http.post(EDITS, json={**request, "response_format": "url"}))
    assert all(url.startswith(f"{ceph.endpoint}/{BUCKET}/{PREFIX}/") for url in urls)
    fetched = [httpx.get(url) for url in urls]
    assert [one.content for one in fetched] == files(http.post(EDITS, json=request))
    assert {one.headers["content-type"] for one in fetched} == {f"image/{output_format}"}


def test_while_the_store_is_away_links_are_503_and_base64_goes_on(http: httpx.Client, ceph: Ceph):
    by_link = canvas_request(response_format="url")
    ceph.kill_gateway()
    away = http.post(EDITS, json=by_link)
    assert refusal(away) == (503, "server_error", "backend_unavailable", None)
    assert away.headers["x-should-retry"] == "true"
    assert "127.0.0.1" not in away.text
    (picture,) = files(http.post(EDITS, json=canvas_request()))
    ceph.start_gateway()
    (url,) = links(http.post(EDITS, json=by_link))
    assert httpx.get(url).content == picture


def test_the_server_itself_has_no_files(http: httpx.Client):
    answer = http.get(f"/v1/files/{'0' * 32}.png", params={"expires": "1", "signature": "0"})
    assert refusal(answer) == (404, "not_found_error", "not_found", None)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"options": {"secret_access_key": "wrong"}}, "SignatureDoesNotMatch"),
        ({"url": "s3://nowhere"}, "NoSuchBucket"),
        ({"options": {"endpoint": "http://127.0.0.1:1"}}, "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_used_stops_the_start_with_one_sentence(
    ceph: Ceph, tmp_path: Path, keys: dict[str, Any], told: str
):
    command = [
        RETOUCH,
        "serve",
        "--config",
        str(written(tmp_path / "a.yaml", ceph, **keys)),
        "--port",
        str(free_port()),
    ]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=START_S)
    assert ended.returncode == 2
    (said,) = ended.stderr.splitlines()[1:]
    assert said.startswith("retouch: storage.url s3://")
    assert told in said
