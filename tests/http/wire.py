"""HTTP by hand over a socket: half-sent bodies, senders that do not stop, clients that leave."""

import json
import socket
from collections.abc import Mapping
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Self

import httpx

from tests.http.api import EDITS

TIMEOUT_S = 60.0


class Wire:
    """One connection to a server; closed at the end of the context, whatever was under way."""

    def __init__(self, url: str) -> None:
        address = httpx.URL(url)
        assert address.port is not None
        self._socket = socket.create_connection((address.host, address.port), TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whatever is under way."""
        self._socket.close()

    def start(
        self, headers: Mapping[str, str], *, method: str = "POST", path: str = EDITS, version: str = "1.1"
    ) -> None:
        """Send the head of a request."""
        fields = {"host": "test", "content-type": "application/json", **headers}
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.send("\r\n".join(lines).encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def await_answer(self) -> None:
        """Wait until some of an answer is here, and read none of it."""
        assert self._socket.recv(1, socket.MSG_PEEK)

    def send_edit(self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Send a whole edit request, and wait for nothing."""
        content = json.dumps(body).encode()
        self.start({"content-length": str(len(content)), **(headers or {})})
        self.send(content)

    def get(self, target: str) -> httpx.Response:
        """The answer to a GET whose target goes out as it stands, dots and escapes included."""
        self.start({}, method="GET", path=target)
        return self.answer()

    def answer(self) -> httpx.Response:
        """Wait for the answer's end."""
        response = HTTPResponse(self._socket)
        response.begin()
        return httpx.Response(response.status, headers=response.getheaders(), content=response.read())
