"""What is done to a cluster under load, one thing after the other: processes killed, nodes and stores lost, slow
clients. Each fault is mended where nothing of the cluster's own would do it."""

import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accounting.ends import EDITS
from benchmarks.cluster import Fields, Nodes
from benchmarks.errors import NoServer
from benchmarks.server import free_port

REDIS_START_S = 20.0
DOWN_S = 5.0
"""How long what is mended from outside stays away."""

HELD_CONNECTIONS = 500
SLOW_CLIENTS = 20
SLOW_S = 10.0
WORKER: Fields = {"num_cpus": 4, "num_gpus": 1}


class Redis:
    """Keeps the head's state, as in a RayService; each change is on its disk before it is answered."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process = self._started()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "appendonly": "yes", "save": ""}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = subprocess.Popen(["redis-server", *words, "--appendfsync", "always"], stdout=subprocess.DEVNULL)
        give_up_at = time.monotonic() + REDIS_START_S
        while time.monotonic() < give_up_at:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.05)
        process.kill()
        raise NoServer("Redis did not start")


@contextmanager
def redis(folder: Path) -> Generator[Redis]:
    running = Redis(folder)
    try:
        yield running
    finally:
        running.kill()


@dataclass
class World:
    """What there is to harm. port: of the API. store: the folder of results. head: the fields that it started with.
    slow_ends: the statuses by which the API ended requests whose bodies came a byte a second; 0 for none.
    """

    nodes: Nodes
    redis: Redis
    port: int
    store: Path
    head: Mapping[str, Any]
    connections: list[socket.socket] = field(default_factory=list[socket.socket])
    slow_ends: list[int] = field(default_factory=list[int])

    def kill_replica(self, deployment: str) -> None:
        self.nodes.replicas(deployment)[0].process.kill()

    def kill_process(self, title: str) -> None:
        self.nodes.processes(title)[-1].kill()

    def lose_node(self) -> None:
        """The one with the deployment of which there is one replica only."""
        (single,) = self.nodes.replicas("runs")
        self.nodes.remove(next(name for name, node in self.nodes.ids.items() if node == single.node))

    def add_node(self) -> None:
        self.nodes.add(f"worker-{time.monotonic():.0f}", **WORKER)

    def lose_head(self) -> None:
        self.nodes.remove("head")

    def add_head(self) -> None:
        self.nodes.add("head", **self.head)

    def restart_redis(self) -> None:
        """The head's state ends by itself where its Redis is away, and Kubernetes starts it again."""
        self.redis.start()
        self.nodes.kill_gcs()
        self.nodes.start_gcs()

    def fill_disk(self) -> None:
        with open(self.store / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def free_disk(self) -> None:
        (self.store / "filler").unlink()

    def hold_connections(self) -> None:
        """Half of them have sent the head of a request, the others nothing."""
        for number in range(HELD_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            if number % 2:
                connection.sendall(_head(content_length=1_000_000))
            self.connections.append(connection)

    def send_slowly(self) -> None:
        """A byte a second, of the body and from the answer."""
        for number in range(SLOW_CLIENTS):
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            head = _head(content_length=100) if number % 2 else b"GET /openapi.json HTTP/1.1\r\nhost: slow\r\n\r\n"
            connection.sendall(head)
            self.connections.append(connection)
        give_up_at = time.monotonic() + SLOW_S
        while time.monotonic() < give_up_at:
            for number, connection in enumerate(self.connections):
                with suppress(OSError):  # the API has answered and closed it
                    connection.send(b" ") if number % 2 else connection.recv(1)
            time.sleep(1.0)
        self.slow_ends += [_status(connection) for connection in self.connections[1::2]]

    def leave(self) -> None:
        while self.connections:
            self.connections.pop().close()


Act = Callable[[World], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """mend: after DOWN_S; None where the cluster mends itself. cuts: whether it ends processes that hold a client's
    connection, whose requests may therefore be cut off. kills: whether it ends any process."""

    name: str
    strike: Act
    mend: Act | None = None
    cuts: bool = False
    kills: bool = True


def faults(model: str) -> dict[str, Fault]:
    """By name. model: whose editor is killed, by its id."""
    every = [
        Fault("editor", lambda world: world.kill_replica(f"editor-{model}")),
        Fault("codec", lambda world: world.kill_replica("codec")),
        Fault("ingress", lambda world: world.kill_replica("ingress"), cuts=True),
        Fault("runs", lambda world: world.kill_replica("runs")),
        Fault("controller", lambda world: world.kill_process("ray::ServeController")),
        Fault("proxy", lambda world: world.kill_process("ray::ProxyActor"), cuts=True),
        Fault("node", World.lose_node, World.add_node, cuts=True),
        Fault("gcs", lambda world: world.nodes.kill_gcs(), lambda world: world.nodes.start_gcs()),
        Fault("redis", lambda world: world.redis.kill(), World.restart_redis),
        Fault("head", World.lose_head, World.add_head, cuts=True),
        Fault("slow clients", World.send_slowly, World.leave, kills=False),
        Fault("500 connections", World.hold_connections, World.leave, kills=False),
        Fault("full disk", World.fill_disk, World.free_disk, kills=False),
    ]
    return {one.name: one for one in every}


def _status(connection: socket.socket) -> int:
    """Of the answer that has come; 0 where none has."""
    connection.settimeout(1.0)
    with suppress(OSError, ValueError, IndexError):
        return int(connection.recv(1000).split()[1])
    return 0


def _head(content_length: int) -> bytes:
    lines = [f"POST {EDITS} HTTP/1.1", "host: slow", "content-type: application/json"]
    return "\r\n".join([*lines, f"content-length: {content_length}", "", ""]).encode()
