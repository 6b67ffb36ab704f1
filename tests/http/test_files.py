"""Results by link: what the link gives, for whom and for how long."""

import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from serve.storage import LocalStore
from tests.http.api import Refusal, canvas_request, draw, drawing_request, post, refusal
from tests.http.conftest import Server
from tests.http.wire import Wire

INVALID_SIGNATURE: Refusal = (403, "permission_error", "invalid_signature", None)
EXPIRED: Refusal = (403, "permission_error", "expired", None)
NOT_FOUND: Refusal = (404, "not_found_error", "not_found", None)
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def _link(http: httpx.Client, **fields: object) -> str:
    response = post(http, canvas_request(response_format="url", **fields))
    assert response.status_code == 200
    (item,) = response.json()["data"]
    assert set(item) == {"url", "seed"}
    return item["url"]


def test_a_link_gives_the_bytes_that_base64_would(http: httpx.Client) -> None:
    response = post(http, drawing_request(response_format="url", n=2))
    found = [http.get(item["url"]).content for item in response.json()["data"]]
    assert found == draw(http, n=2)


def test_a_link_is_the_default_form(http: httpx.Client) -> None:
    (item,) = post(http, canvas_request(response_format=None)).json()["data"]
    assert set(item) == {"url", "seed"}


def test_a_link_leads_to_the_host_that_the_caller_used(http: httpx.Client, server: Server) -> None:
    assert _link(http).startswith(f"{server.url}/v1/files/")


@pytest.mark.parametrize("output_format", MEDIA_TYPES)
def test_a_file_says_what_it_is(http: httpx.Client, output_format: str) -> None:
    response = http.get(_link(http, output_format=output_format))
    assert response.status_code == 200
    assert response.headers["content-type"] == MEDIA_TYPES[output_format]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert int(response.headers["content-length"]) == len(response.content)


def test_a_link_works_for_at_least_the_configured_lifetime(http: httpx.Client, server: Server) -> None:
    before_s = time.time()
    (expires,) = parse_qs(urlsplit(_link(http)).query)["expires"]
    assert int(expires) >= before_s + server.settings.storage.lifetime_s


def test_links_cannot_be_guessed_from_each_other(http: httpx.Client) -> None:
    paths = {urlsplit(_link(http)).path for _ in range(3)}
    assert len(paths) == 3
    assert all(len(path) > len("/v1/files/") + 32 for path in paths)


@pytest.mark.parametrize("name", ["expires", "signature"])
def test_a_link_with_a_changed_part_is_forbidden(http: httpx.Client, name: str) -> None:
    url = httpx.URL(_link(http))
    value = url.params[name]
    for changed in (value[:-1] + ("1" if value[-1] == "0" else "0"), "", value + "0", "é", "-1", "\0"):
        assert refusal(http.get(url.copy_set_param(name, changed))) == INVALID_SIGNATURE
    assert refusal(http.get(url.copy_remove_param(name))) == INVALID_SIGNATURE


def test_a_signature_opens_no_other_file(http: httpx.Client) -> None:
    mine, other = httpx.URL(_link(http)), httpx.URL(_link(http))
    assert refusal(http.get(mine.copy_with(path=other.path))) == INVALID_SIGNATURE


def test_an_expired_link_is_forbidden(http: httpx.Client, server: Server) -> None:
    long_ago = time.time() - server.settings.storage.lifetime_s - 60
    store = LocalStore(server.settings.storage, clock=lambda: long_ago)
    url = store.put(b"old", "png", server.url)
    assert refusal(http.get(url)) == EXPIRED


def test_a_file_that_is_gone_is_not_found(http: httpx.Client, server: Server) -> None:
    url = _link(http)
    (server.settings.storage.folder / urlsplit(url).path.rsplit("/", 1)[1]).unlink()
    assert refusal(http.get(url)) == NOT_FOUND


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".secret",
        "%2e%2e%2f.secret",
        "..%2f..%2fetc%2fpasswd",
        "..%5c.secret",
        "%2Fetc%2Fpasswd",
        "/etc/passwd",
        f"{'0' * 32}.png/../.secret",
        f"{'0' * 32}.png%00.txt",
        f"{'0' * 32}.gif",
        f"{'0' * 31}.png",
        f"{'A' * 32}.png",
        "%ff",
        "x" * 5000,
    ],
)
def test_no_other_path_leads_to_a_file(http: httpx.Client, server: Server, name: str) -> None:
    query = urlsplit(_link(http)).query
    with Wire(server.url) as wire:
        assert refusal(wire.get(f"/v1/files/{name}?{query}")) == NOT_FOUND


def test_the_folder_holds_no_more_than_pictures_and_the_secret(http: httpx.Client, server: Server) -> None:
    _link(http)
    kinds = {path.suffix or path.name for path in server.settings.storage.folder.iterdir()}
    assert kinds <= {".png", ".jpeg", ".webp", ".secret"}
