"""The way from a client to the server, which can break."""

import socket
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Self

import httpx

PIECE_BYTES = 64 * 1024


class Line:
    """Carries all connections that are made to `url` to the server, and back. connections: how many were made."""

    def __init__(self, server: str) -> None:
        self._server = httpx.URL(server)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        Thread(target=self._connect, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close(self._listening)
        self.cut()

    def cut(self) -> None:
        """All connections that there are; new ones can be made."""
        while self._ends:
            _close(self._ends.pop())

    def _connect(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection((self._server.host, self._server.port or 80))
                self.connections += 1
                self._ends += [near, far]
                Thread(target=_carry, args=(near, far), daemon=True).start()
                Thread(target=_carry, args=(far, near), daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while piece := one.recv(PIECE_BYTES):
            other.sendall(piece)
    _close(other)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
