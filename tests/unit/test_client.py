"""The API's client against a real HTTP server, and its requests against the server's own parser."""

import base64
import io
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from PIL import Image

from serve.client import MAX_WAIT_S, RETRIES, Client, EditCall, EditedPicture, Refused, Unreachable
from serve.schema import parse
from tests.unit.peer import Answer, listening, refusal

PICTURE = b"the bytes of a result"
EDITED: dict[str, Any] = {
    "created": 1790000000,
    "model": "tiny",
    "size": "512x512",
    "output_format": "png",
    "data": [{"b64_json": base64.b64encode(PICTURE).decode(), "seed": 2**63}],
}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


CALL = EditCall(prompt="make it blue", images=[png()])


class Clock:
    """Keeps the waits that it is asked for, and takes no time."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_an_edit_answers_the_pictures_and_their_seeds():
    with listening(Answer(EDITED)) as peer:
        answer = Client(peer.url).edit(CALL)
    assert answer.pictures == (EditedPicture(PICTURE, 2**63),)
    assert (answer.model, answer.size) == ("tiny", "512x512")


def test_the_server_reads_from_the_body_what_the_caller_asked():
    asked = EditCall("make it blue", [png(), png()], mask=png(), options={"n": 2, "strength": 0.5, "size": "512x512"})
    with listening(Answer(EDITED)) as peer:
        Client(peer.url).edit(asked)
    request = parse(peer.asked[0].body)
    assert [base64.b64decode(image) for image in request.images] == [png(), png()]
    assert base64.b64decode(request.mask or "") == png()
    assert (request.prompt, request.n, request.strength, request.size) == ("make it blue", 2, 0.5, "512x512")
    assert request.response_format == "b64_json"


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_a_url_may_be_the_root_or_the_api_itself(ending: str):
    with listening(Answer(EDITED)) as peer:
        Client(peer.url + ending).edit(CALL)
    assert peer.asked[0].path == "/v1/images/edits"


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1", "http://h:port"])
def test_what_is_no_url_is_refused_with_an_example_of_one(url: str):
    with pytest.raises(ValueError, match=r"reads like http://127\.0\.0\.1:8000"):
        Client(url)


def test_a_refused_request_raises_the_servers_own_sentence():
    said = r"^images\[0\] is 4\.7 MB; at most 4 MB are accepted$"
    answer = refusal(400, "images[0] is 4.7 MB;\nat most 4 MB are accepted")
    with listening(answer) as peer, pytest.raises(Refused, match=said):
        Client(peer.url).edit(CALL)
    assert len(peer.asked) == 1


def test_an_overloaded_server_is_asked_again_after_the_time_it_names():
    clock = Clock()
    with listening(refusal(429, "busy", {"retry-after": "7"}), Answer(EDITED)) as peer:
        answer = Client(peer.url, wait=clock.wait).edit(CALL)
    assert clock.waits == [7.0]
    assert peer.asked[0] == peer.asked[1]
    assert answer.pictures[0].data == PICTURE


def test_retry_after_may_be_a_date():
    clock = Clock()
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    with listening(refusal(429, "busy", {"retry-after": at}), Answer(EDITED)) as peer:
        Client(peer.url, wait=clock.wait).edit(CALL)
    assert len(clock.waits) == 1
    assert 0 < clock.waits[0] <= 90


@pytest.mark.parametrize(
    ("status", "headers", "tries"),
    [
        (503, {"x-should-retry": "true", "retry-after": "1"}, 2),
        (503, {"retry-after": "1"}, 1),
        (500, {"x-should-retry": "true"}, 2),
        (500, {}, 1),
        (429, {"x-should-retry": "false", "retry-after": "1"}, 1),
        (400, {"x-should-retry": "true", "retry-after": "1"}, 1),
    ],
)
def test_only_an_error_that_a_retry_can_help_is_tried_again(status: int, headers: dict[str, str], tries: int):
    answers = refusal(status, "no", headers), refusal(400, "the second answer")
    with listening(*answers) as peer, pytest.raises(Refused):
        Client(peer.url, wait=Clock().wait).edit(CALL)
    assert len(peer.asked) == tries


def test_a_server_that_stays_overloaded_is_given_up_after_a_few_tries():
    clock = Clock()
    answer = refusal(429, "still busy", {"retry-after": "0"})
    with listening(answer) as peer, pytest.raises(Refused, match="still busy"):
        Client(peer.url, wait=clock.wait).edit(CALL)
    assert len(peer.asked) == RETRIES + 1


@pytest.mark.parametrize(("retry_after", "waits"), [("50", [50.0, 50.0]), ("3600", []), ("inf", [])])
def test_the_waits_of_a_request_stay_within_their_bound(retry_after: str, waits: list[float]):
    clock = Clock()
    with listening(refusal(429, "busy", {"retry-after": retry_after})) as peer, pytest.raises(Refused):
        Client(peer.url, wait=clock.wait).edit(CALL)
    assert clock.waits == waits
    assert sum(clock.waits) <= MAX_WAIT_S


def test_nobody_at_the_address_says_how_to_start_a_server():
    url = f"http://127.0.0.1:{unused_port()}"
    with pytest.raises(Unreachable, match=f"no server answers at {url}; `retouch serve` starts one"):
        Client(url).models()


def test_a_connection_that_breaks_off_is_unreachable():
    with listening(Answer(None)) as peer, pytest.raises(Unreachable, match="broke off"):
        Client(peer.url).edit(CALL)


def test_a_server_that_stays_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"did not answer within 0\.05 s"):
            Client(url, timeout_s=0.05).models()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>hello</html>"),
        Answer(b"<html>bad gateway</html>", 502),
        Answer({"detail": "Not Found"}, 404),
        Answer(["a list"]),
        Answer({}),
        Answer({"data": None}),
        Answer({"data": [{"url": "http://127.0.0.1/x"}]}),
        Answer({"data": [{"b64_json": "not base64!"}]}),
        Answer({"data": [{"b64_json": 5}]}),
    ],
)
def test_an_answer_that_is_not_the_apis_is_told_apart_from_a_refusal(answer: Answer):
    with listening(answer) as peer, pytest.raises(Refused, match="no Retouch server"):
        Client(peer.url).edit(CALL)


@pytest.mark.parametrize("content", [{}, {"data": {"id": "x"}}, {"data": ["x"]}, {"data": [{"name": "x"}]}])
def test_a_list_of_models_that_is_none_is_told(content: object):
    with listening(Answer(content)) as peer, pytest.raises(Refused, match="no Retouch server"):
        Client(peer.url).models()


def test_a_proxy_for_the_outside_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    with listening(Answer({"data": [{"id": "tiny"}]})) as peer:
        assert Client(peer.url).models() == [{"id": "tiny"}]


# Streams


def _events(*events: tuple[str, object]) -> Answer:
    body = "".join(f": alive\r\nevent: {name}\r\ndata: {json.dumps(data)}\r\n\r\n" for name, data in events)
    return Answer(body.encode(), headers={"content-type": "text/event-stream"})


STEPS = [("image_edit.progress", {"image_index": index, "step": 1, "total": 2}) for index in (0, 1)]
RESULT = ("image_edit.completed", {**EDITED["data"][0], "model": "tiny", "size": "512x512"})


def test_an_edit_that_is_watched_tells_the_steps_of_all_its_pictures():
    told: list[tuple[int, int]] = []
    with listening(_events(*STEPS, RESULT, RESULT)) as peer:
        answer = Client(peer.url).edit(CALL, lambda done, steps: told.append((done, steps)))
    assert told == [(1, 2), (2, 2)]
    assert answer.pictures == (EditedPicture(PICTURE, 2**63),) * 2
    assert (answer.model, answer.size) == ("tiny", "512x512")
    assert peer.asked[0].json["stream"] is True


def test_a_watched_edit_that_is_turned_away_is_tried_again():
    clock = Clock()
    with listening(refusal(429, "busy", {"retry-after": "3"}), _events(RESULT)) as peer:
        assert Client(peer.url, wait=clock.wait).edit(CALL, lambda done, steps: None).pictures
    assert clock.waits == [3.0]


def test_an_error_in_a_stream_is_the_servers_sentence():
    failed = _events(*STEPS, ("error", {"error": {"message": "it has failed"}}))
    with listening(failed) as peer, pytest.raises(Refused, match="it has failed"):
        Client(peer.url).edit(CALL, lambda done, steps: None)


def test_a_stream_that_breaks_off_is_told():
    with listening(_events(*STEPS)) as peer, pytest.raises(Unreachable, match="broke off before the edit was done"):
        Client(peer.url).edit(CALL, lambda done, steps: None)


def test_a_key_goes_with_every_request():
    with listening(Answer(EDITED)) as peer:
        Client(peer.url, key="rtk-mine").edit(CALL)
        Client(peer.url).edit(CALL)
    assert [asked.headers.get("authorization") for asked in peer.asked] == ["Bearer rtk-mine", None]
