"""How a picture is uploaded, seen from the other end of the wire: what is sent, and which answers are tried again."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serve.errors import BackendUnavailable, ConfigurationError
from serve.storage import ObjectStore
from tests.storage.conftest import BUCKET, PREFIX, bucket_settings

HOST = "https://images.example.com"
CUT = 0
"""In place of a status: the connection is closed without an answer."""

REASON = b"<?xml version='1.0'?>\n<Error>\n<Code>Reasoned</Code>\n<Message>a key: AKTEST</Message></Error>"


class Peer:
    """Answers uploads with these statuses, one after the other, the last of them for ever."""

    def __init__(self, *statuses: int) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                peer.seen.append((self.command, self.path, headers, body))
                status = statuses[min(len(peer.seen), len(statuses)) - 1]
                if status == CUT:
                    self.close_connection = True
                    with suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("etag", '"1"')
                self.send_header("content-length", str(len(REASON)))
                self.end_headers()
                self.wfile.write(REASON)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.store = ObjectStore(bucket_settings(f"http://127.0.0.1:{self._server.server_port}", retry_s=2))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    peer = Peer(*request.param)
    yield peer
    peer.close()


@pytest.mark.parametrize("peer", [[200]], indirect=True)
def test_an_upload_is_one_signed_request_that_names_the_type(peer: Peer):
    data = bytes(8 * 2**20)
    url = peer.store.put(data, "jpeg", HOST)
    ((method, path, headers, body),) = peer.seen
    assert (method, body == data) == ("PUT", True)
    assert path.startswith(f"/{BUCKET}/{PREFIX}/")
    assert path.endswith(".jpeg")
    assert f"{path}?" in url
    assert headers["content-type"] == "image/jpeg"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 ")


@pytest.mark.parametrize("peer", [[500, 503, 200], [CUT, 502, CUT, 200]], indirect=True, ids=str)
def test_server_errors_and_lost_connections_are_tried_again_under_the_same_name(peer: Peer):
    url = peer.store.put(b"picture", "png", HOST)
    assert len(peer.seen) in (3, 4)
    assert {f"{path}?" in url for _, path, _, _ in peer.seen} == {True}
    assert {body for _, _, _, body in peer.seen} == {b"picture"}


@pytest.mark.parametrize("peer", [[500], [503], [CUT]], indirect=True, ids=str)
def test_a_store_that_goes_on_failing_is_a_503_after_several_attempts(peer: Peer):
    with pytest.raises(BackendUnavailable):
        peer.store.put(b"picture", "png", HOST)
    assert len(peer.seen) >= 3


@pytest.mark.parametrize("peer", [[400], [403], [404], [409]], indirect=True, ids=str)
def test_a_refusal_is_a_503_at_once(peer: Peer):
    with pytest.raises(BackendUnavailable):
        peer.store.put(b"picture", "png", HOST)
    assert len(peer.seen) == 1


@pytest.mark.parametrize("peer", [[400], [401], [403], [404], [503]], indirect=True, ids=str)
def test_a_start_is_told_the_code_of_a_refusal_in_one_line(peer: Peer):
    with pytest.raises(ConfigurationError) as refused:
        peer.store.check()
    said = str(refused.value)
    assert said.endswith("(Reasoned)")
    assert "\n" not in said
    assert "AKTEST" not in said
