"""Whatever goes wrong before an edit begins: one shape of error, the right status, and the request's id."""

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest

from serve.deployments.deadline import TIME_LIMIT_HEADERS
from serve.settings import MIB
from tests.http.api import EDITS, JSON, Refusal, canvas_request, drawing_request, post, refusal
from tests.http.conftest import Server
from tests.http.wire import Wire

CHUNK = b"%x\r\n%s\r\n" % (MIB, b" " * MIB)
TOO_LARGE: Refusal = (413, "invalid_request_error", "request_too_large", None)
UNSUPPORTED: Refusal = (415, "invalid_request_error", "unsupported_media_type", None)
NOT_FOUND: Refusal = (404, "not_found_error", "not_found", None)


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/images",
        "/v1/images/generations",
        f"{EDITS}/",
        "/V1/images/edits",
        "/nothing",
        "/v1/files",
        "/v1/models/",
    ],
)
def test_an_address_that_is_not_there_is_not_found(http: httpx.Client, path: str) -> None:
    assert refusal(http.get(path)) == NOT_FOUND


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *((method, EDITS, "POST") for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
        *((method, "/v1/models", "GET") for method in ("POST", "DELETE")),
        ("POST", "/v1/files/x.png", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_method_that_is_not_allowed_is_refused_with_those_that_are(
    http: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = http.request(method, path)
    assert refusal(response) == (405, "invalid_request_error", "method_not_allowed", None)
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", [EDITS, "/v1/models", "/healthz", "/nothing"])
def test_a_head_request_is_answered_without_a_body(http: httpx.Client, path: str) -> None:
    response = http.head(path)
    assert response.status_code in (200, 404, 405)
    assert response.content == b""


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/jsonl",
        "image/png",
        "é",
    ],
)
def test_a_body_of_another_media_type_is_refused(http: httpx.Client, media_type: str) -> None:
    body = json.dumps(canvas_request())
    headers = [(b"content-type", media_type.encode())] if media_type else []
    assert refusal(http.post(EDITS, content=body.encode(), headers=headers)) == UNSUPPORTED


def test_a_compressed_body_is_refused(http: httpx.Client) -> None:
    body = gzip.compress(json.dumps(canvas_request()).encode())
    assert refusal(http.post(EDITS, content=body, headers={**JSON, "content-encoding": "gzip"})) == UNSUPPORTED


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
def test_json_may_be_declared_in_every_usual_way(http: httpx.Client, media_type: str) -> None:
    body = json.dumps(canvas_request())
    assert http.post(EDITS, content=body, headers={"content-type": media_type}).status_code == 200


def test_a_body_declared_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.start({"content-length": str(server.settings.limits.body_bytes + 1)})
        assert refusal(wire.answer()) == TOO_LARGE


def test_a_chunked_body_is_refused_while_it_streams_in(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.start({"transfer-encoding": "chunked"})
        for _ in range(server.settings.limits.body_bytes // MIB + 1):
            wire.send(CHUNK)
        # The body's last chunk is never sent.
        assert refusal(wire.answer()) == TOO_LARGE


def test_a_body_of_exactly_the_limit_is_read(http: httpx.Client, server: Server) -> None:
    body = json.dumps(canvas_request()).encode()
    padded = body + b" " * (server.settings.limits.body_bytes - len(body))
    assert http.post(EDITS, content=padded, headers=JSON).status_code == 200


def test_a_chunked_body_is_accepted(http: httpx.Client) -> None:
    body = json.dumps(canvas_request()).encode()

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 10_000):
            yield body[at : at + 10_000]

    assert http.post(EDITS, content=pieces(), headers=JSON).status_code == 200


def test_a_body_that_does_not_arrive_in_time_is_refused(server: Server) -> None:
    with Wire(server.url) as wire:
        wire.start({"content-length": "1000"})
        wire.send(b'{"prompt": ')
        assert refusal(wire.answer()) == (408, "invalid_request_error", "timeout", None)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_whoever_goes_on_sending_gets_the_refusal_that_came_before(server: Server, version: str) -> None:
    rest = b" " * 16 * MIB  # more than the system takes in one go
    with Wire(server.url) as wire:
        headers = {"content-type": "text/plain", "content-length": str(len(rest)), "connection": "close"}
        wire.start(headers, version=version)
        wire.await_answer()
        wire.send(rest)
        assert refusal(wire.answer()) == UNSUPPORTED


def test_a_client_that_leaves_within_its_body_harms_nobody(server: Server, http: httpx.Client) -> None:
    for _ in range(5):
        with Wire(server.url) as wire:
            wire.start({"content-length": "1000000"})
            wire.send(b" " * 1000)
    assert post(http, canvas_request()).status_code == 200


def test_an_upload_waits_for_no_other(server: Server, http: httpx.Client) -> None:
    with Wire(server.url) as slow:
        slow.start({"content-length": "1000"})
        assert post(http, canvas_request()).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/nothing", 404)])
def test_the_request_id_is_the_callers(http: httpx.Client, path: str, status: int) -> None:
    response = http.get(path, headers={"x-request-id": "mine-1"})
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["mine-1"]


def test_an_edit_and_its_refusal_carry_the_callers_request_id(http: httpx.Client) -> None:
    headers = {"x-request-id": "mine-2"}
    for body, status in ((canvas_request(), 200), (canvas_request(n=0), 400)):
        response = http.post(EDITS, json=body, headers=headers)
        assert response.status_code == status
        assert response.headers.get_list("x-request-id") == ["mine-2"]


def test_a_request_id_is_drawn_where_the_caller_sends_none(http: httpx.Client) -> None:
    ids = [http.get("/healthz").headers.get_list("x-request-id") for _ in range(2)]
    assert all(len(one) == 1 and one[0] for one in ids)
    assert ids[0] != ids[1]


def test_callers_may_share_a_request_id(http: httpx.Client) -> None:
    headers = {"x-request-id": "shared"}
    answers = [http.post(EDITS, json=canvas_request(seed=seed), headers=headers).json() for seed in (1, 2)]
    assert [answer["data"][0]["seed"] for answer in answers] == [1, 2]


def test_server_timing_names_every_stage(http: httpx.Client) -> None:
    header = post(http, canvas_request()).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in header.split(", "))
    assert list(stages) == ["queue", "decode", "encode", "denoise", "vae", "png"]
    assert all(float(duration) >= 0 for duration in stages.values())


@pytest.mark.parametrize(
    "header",
    [
        "x-request-id: \xff\xfe",
        "x-session-id: \xff",
        "serve_multiplexed_model_id: \xff",
        "x-request-timeout-seconds: soon",
    ],
)
def test_no_header_makes_the_proxy_fail(server: Server, header: str) -> None:
    request = f"GET /v1/models HTTP/1.1\r\nhost: test\r\n{header}\r\n\r\n".encode("latin-1")
    with Wire(server.url) as wire:
        wire.send(request)
        response = wire.answer()
    assert response.status_code == 200
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("name", TIME_LIMIT_HEADERS)
def test_a_time_limit_of_the_callers_own_ends_in_the_envelope(server: Server, name: str) -> None:
    with Wire(server.url) as wire:
        wire.start({"content-length": "1000", name: "0.2"})
        response = wire.answer()
    assert refusal(response) == (408, "invalid_request_error", "timeout", None)
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("name", TIME_LIMIT_HEADERS)
@pytest.mark.parametrize("value", [b"soon", b"0", b"-1", b"inf", b"1,2", b"\xff\xfe"])
def test_a_time_limit_that_is_none_is_refused_by_name(http: httpx.Client, name: str, value: bytes) -> None:
    response = http.post(EDITS, json=canvas_request(), headers=[(name.encode(), value)])
    assert refusal(response) == (400, "invalid_request_error", "invalid_value", None)
    assert name in response.json()["error"]["message"]


@pytest.mark.parametrize("seconds", ["100000", "2330208113488738.0", "1e300"])
def test_a_generous_time_limit_changes_nothing(http: httpx.Client, seconds: str) -> None:
    headers: dict[str, str] = dict.fromkeys(TIME_LIMIT_HEADERS, seconds)
    assert http.post(EDITS, json=drawing_request(), headers=headers).status_code == 200
