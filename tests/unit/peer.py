"""A real HTTP server on 127.0.0.1 that gives the answers it was handed, in turn, and keeps what it was asked."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from starlette.datastructures import Headers


@dataclass(frozen=True)
class Answer:
    """content: bytes as they are, or a value that is sent as JSON. None closes the connection without an answer."""

    content: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True)
class Peer:
    url: str
    asked: list[Asked]


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    error = {"message": message, "type": "error", "param": None, "code": "code"}
    return Answer({"error": error}, status, headers or {})


@contextmanager
def listening(*answers: Answer) -> Generator[Peer]:
    """The last answer is given again to every further request."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append(Asked(self.command, self.path, body, Headers(dict(self.headers.items()))))
            answer = answers[min(len(asked), len(answers)) - 1]
            if answer.content is not None:
                self._send(answer, _encoded(answer.content))

        def do_POST(self) -> None:
            self.do_GET()

        def _send(self, answer: Answer, content: bytes) -> None:
            self.send_response(answer.status)
            for name, value in {**answer.headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # http.server's own name.
            """Nothing on the test's standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Peer(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _encoded(content: object) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()
