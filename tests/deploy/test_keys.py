"""A server with keys, and two processes that let people in: who may do what, and how much, over both."""

import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve.auth import create_key, read_keys, revoke_key
from tests import checkpoints
from tests.deploy.test_retouch_serve import RETOUCH, serving
from tests.http.api import EDITS, canvas_request, drawing_request, refusal
from tests.http.conftest import free_port
from tests.http.processes import replicas, session_folder
from tests.http.wire import Wire
from tests.waiting import eventually

CONFIG = """
models:
  - {{id: open, aliases: [free], family: flux_kontext, weights: {weights}, backend: simulated, max_batch: 4}}
  - {{id: closed, family: flux_kontext, weights: {weights}, backend: simulated, max_batch: 4}}
server: {{ingress_replicas: 2}}
auth: {{keys_file: {keys}}}
"""
PER_MINUTE = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    """By name."""
    file = folder / "keys.yaml"
    return {
        "ada": create_key(file, "ada", None, {}),
        "bob": create_key(file, "bob", ("free",), {}),
        "few": create_key(file, "few", None, {"requests_per_minute": PER_MINUTE}),
        "small": create_key(file, "small", None, {"images_per_minute": 5}),
        "slow": create_key(file, "slow", None, {"images_in_flight": 2}),
        "wrong": create_key(file, "wrong", None, {"requests_per_minute": PER_MINUTE}),
        "gone": create_key(file, "gone", None, {}),
    }


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pid(folder: Path, keys: dict[str, str], port: int) -> Generator[int]:
    """Of the server."""
    assert keys
    config = folder / "retouch.yaml"
    weights = checkpoints.flux_kontext(folder / "weights")
    config.write_text(CONFIG.format(weights=weights, keys=folder / "keys.yaml"))
    with serving(port, "--config", str(config)) as server:
        yield server.pid


@pytest.fixture(scope="module")
def url(port: int, pid: int) -> str:
    assert pid
    return f"http://127.0.0.1:{port}"


def _post(url: str, key: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(url + EDITS, json=canvas_request(**fields), headers=headers, timeout=60)


def test_nobody_comes_in_without_a_key(url: str) -> None:
    refused = httpx.post(url + EDITS, json=canvas_request())
    assert refusal(refused) == (401, "authentication_error", "missing_api_key", None)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refusal(_post(url, "rtk-wrong")) == (401, "authentication_error", "invalid_api_key", None)
    assert refusal(httpx.get(f"{url}/v1/models"))[0] == 401
    assert refusal(httpx.get(f"{url}/v1/models/open"))[0] == 401
    assert httpx.get(f"{url}/healthz").status_code == httpx.get(f"{url}/readyz").status_code == 200


def test_a_stranger_is_answered_before_the_body_is_sent(url: str) -> None:
    with Wire(url) as wire:
        wire.start({"content-length": "1000000"})
        assert refusal(wire.answer())[0] == 401


def test_a_key_opens_the_models_that_it_is_for(url: str, keys: dict[str, str]) -> None:
    assert _post(url, keys["ada"], model="closed").status_code == 200
    assert _post(url, keys["bob"], model="open").status_code == 200
    refused = (403, "permission_error", "model_not_allowed", "model")
    assert refusal(_post(url, keys["bob"], model="closed")) == refused
    bob = {"authorization": f"Bearer {keys['bob']}"}
    assert [model["id"] for model in httpx.get(f"{url}/v1/models", headers=bob).json()["data"]] == ["open"]
    assert refusal(httpx.get(f"{url}/v1/models/closed", headers=bob)) == refused


def test_a_link_needs_no_key(url: str, keys: dict[str, str]) -> None:
    link = _post(url, keys["ada"], response_format="url").json()["data"][0]["url"]
    assert httpx.get(link).status_code == 200


def test_requests_a_minute_are_counted_over_all_replicas(url: str, keys: dict[str, str]) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: _post(url, keys["few"]), range(2 * PER_MINUTE)))
    assert sorted(answer.status_code for answer in answers) == [200] * PER_MINUTE + [429] * PER_MINUTE
    good = [answer.headers for answer in answers if answer.status_code == 200]
    assert sorted(int(headers["x-ratelimit-remaining-requests"]) for headers in good) == list(range(PER_MINUTE))
    assert {headers["x-ratelimit-limit-requests"] for headers in good} == {str(PER_MINUTE)}
    spent = next(answer for answer in answers if answer.status_code == 429)
    assert refusal(spent) == (429, "rate_limit_error", "rate_limit_exceeded", None)
    assert 1 <= int(spent.headers["retry-after"]) <= 60
    assert spent.headers["x-ratelimit-remaining-requests"] == "0"
    assert spent.headers["x-ratelimit-reset-requests"].endswith("s")
    assert _post(url, keys["ada"]).status_code == 200


def test_images_a_minute_are_counted_as_they_are_asked_for(url: str, keys: dict[str, str]) -> None:
    first = _post(url, keys["small"], n=3)
    assert (first.status_code, first.headers["x-ratelimit-remaining-images"]) == (200, "2")
    more = _post(url, keys["small"], n=3)
    assert (refusal(more)[2], more.headers["x-ratelimit-remaining-images"]) == ("rate_limit_exceeded", "2")
    assert more.headers["x-should-retry"] == "true"
    never = _post(url, keys["small"], n=6)
    assert (never.status_code, never.headers["x-should-retry"]) == (429, "false")
    assert _post(url, keys["small"], n=2).status_code == 200


def test_a_refusal_of_another_kind_tells_what_is_left_as_well(url: str, keys: dict[str, str]) -> None:
    wrong = _post(url, keys["wrong"], n=11)
    assert (wrong.status_code, wrong.headers["x-ratelimit-remaining-requests"]) == (400, str(PER_MINUTE - 1))


def test_images_in_flight_are_counted_over_all_replicas_and_free_at_the_end(url: str, keys: dict[str, str]) -> None:
    headers = {"authorization": f"Bearer {keys['slow']}"}
    body = drawing_request(model="open", num_inference_steps=100)
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: httpx.post(url + EDITS, json=body, headers=headers, timeout=60), range(6)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200, 429, 429, 429, 429]
    eventually(lambda: _post(url, keys["slow"], n=2).status_code == 200)


def test_a_stream_holds_its_images_until_it_ends(url: str, keys: dict[str, str]) -> None:
    headers = {"authorization": f"Bearer {keys['slow']}"}
    body = drawing_request(model="open", num_inference_steps=100, stream=True, n=2)
    eventually(lambda: _post(url, keys["slow"], n=2).status_code == 200)
    with httpx.stream("POST", url + EDITS, json=body, headers=headers, timeout=60) as stream:
        assert stream.status_code == 200
        assert _post(url, keys["slow"]).status_code == 429
    eventually(lambda: _post(url, keys["slow"], n=2).status_code == 200)


def test_keys_come_and_go_without_a_restart(url: str, folder: Path, keys: dict[str, str]) -> None:
    assert _post(url, keys["gone"]).status_code == 200
    revoke_key(folder / "keys.yaml", "gone")
    eventually(lambda: {_post(url, keys["gone"]).status_code for _ in range(4)} == {401})
    new = create_key(folder / "keys.yaml", "new", None, {})
    eventually(lambda: {_post(url, new).status_code for _ in range(4)} == {200})


def test_the_official_client_says_what_is_wrong(url: str, keys: dict[str, str]) -> None:
    def edit(key: str, **fields: Any) -> Any:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        body = canvas_request(**fields)
        form = {"Content-Type": "application/json"}
        return client.images.edit(image=[], prompt=body.pop("prompt"), extra_headers=form, extra_body=body)

    assert edit(keys["ada"]).data
    with pytest.raises(openai.AuthenticationError, match="unknown or was revoked"):
        edit("sk-other")
    with pytest.raises(openai.PermissionDeniedError, match="not for the model closed"):
        edit(keys["bob"], model="closed")


def test_an_idempotency_key_is_its_callers_own(url: str, keys: dict[str, str]) -> None:
    def send(key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", "idempotency-key": "same"}
        return httpx.post(url + EDITS, json=canvas_request(), headers=headers, timeout=60)

    assert "idempotent-replayed" not in send(keys["ada"]).headers
    assert "idempotent-replayed" not in send(keys["bob"]).headers
    assert send(keys["ada"]).headers["idempotent-replayed"] == "true"


def test_where_limits_cannot_be_counted_nobody_is_let_in_and_the_server_is_not_ready(
    url: str, pid: int, keys: dict[str, str]
) -> None:
    (counting,) = replicas("quotas", of=pid)
    counting.suspend()
    refused = httpx.get(f"{url}/readyz", timeout=60)
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "quotas is not ready")
    headers = {"authorization": f"Bearer {keys['slow']}", "x-request-timeout-seconds": "1"}
    late = httpx.post(url + EDITS, json=canvas_request(model="open", n=2), headers=headers, timeout=60)
    assert late.status_code == 408
    counting.resume()
    eventually(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == 200)
    # What came while nothing was counted may have been begun, for a caller that had left; that is found out soon.
    eventually(lambda: _post(url, keys["slow"], model="open", n=2).status_code == 200)


def test_no_key_and_no_prompt_is_in_any_log(url: str, pid: int, keys: dict[str, str]) -> None:
    assert _post(url, keys["ada"], prompt="a secret wish", model="open").status_code == 200
    assert _post(url, keys["ada"], prompt="a secret wish " * 4000, model="open").status_code == 400
    logs = [path for path in (session_folder(pid) / "logs").rglob("*") if path.is_file()]
    told = b"".join(path.read_bytes() for path in logs)
    assert b"key=ada" in told
    assert not [name for name, key in keys.items() if key.encode() in told]
    assert b"a secret wish" not in told


def test_the_command_makes_lists_and_revokes_keys(tmp_path: Path) -> None:
    def keys_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [RETOUCH, "keys", *arguments, "--file", str(tmp_path / "keys.yaml")]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    made = keys_command("create", "ada", "--models", "open, closed", "--images-per-minute", "9")
    assert made.stdout.startswith("rtk-")
    assert (read_keys(tmp_path / "keys.yaml")[0].models, made.returncode) == (("open", "closed"), 0)
    listed = keys_command("list").stdout
    assert "ada" in listed
    assert "images_per_minute 9" in listed
    assert keys_command("create", "ada").returncode == 2
    assert keys_command("revoke", "ada").returncode == 0
    assert keys_command("revoke", "ada").returncode == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_public_address_without_keys_is_refused(host: str) -> None:
    command = [RETOUCH, "serve", "--host", host, "--port", str(free_port())]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "there are no API keys: set auth.keys_file" in ended.stderr
