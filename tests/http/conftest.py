"""One real server for all HTTP tests: Ray Serve on this machine with two models, each small enough for a CPU."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serve.engine.engine import EngineStats
from serve.settings import LimitSettings, ModelSettings, ServerSettings, Settings, StorageSettings, embedded_model
from tests import checkpoints

KONTEXT = "kontext-small"
TINY = "retouch-tiny"
ALIAS = "tiny"
MAX_QUEUED_ROWS = 12
MAX_BATCH = 4
"""Of the second model; the first runs one row at a time."""
REQUESTS_IN_FLIGHT = 64
PROFILE_S = 2.0
KEEP_ALIVE_S = 1.0
APPLICATION = "retouch"


@dataclass(frozen=True)
class Server:
    """A running server. settings: what it was started with."""

    url: str
    settings: Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, embedded_engines: None) -> Iterator[Server]:
    # Without it ray.init writes a token into the home folder of whoever runs the tests.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from serve.deployments import app  # noqa: PLC0415 - Ray reads its environment when it is imported

    settings = _settings(tmp_path_factory.mktemp("server"))
    app.start(settings)
    yield Server(f"http://127.0.0.1:{settings.server.port}", settings)
    app.stop()


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def engine_stats(server: Server) -> Callable[[str], EngineStats]:
    """What the engine of a model, by its id, says of its rows."""
    assert server.url
    from ray import serve as ray_serve  # noqa: PLC0415 - Ray reads its environment when it is imported

    def ask(model: str) -> EngineStats:
        return ray_serve.get_deployment_handle(f"editor-{model}", APPLICATION).stats.remote().result()

    return ask


def _settings(folder: Path) -> Settings:
    kontext = ModelSettings(
        id=KONTEXT,
        aliases=("acme/kontext",),
        family="flux_kontext",
        weights=str(checkpoints.flux_kontext(folder / "kontext")),
        max_batch=MAX_BATCH,
        max_queued_rows=MAX_QUEUED_ROWS,
        threads=1,
        profile_s=PROFILE_S,
        num_inference_steps=2,
    )
    tiny = embedded_model().model_copy(
        update={"aliases": (ALIAS,), "max_queued_rows": MAX_QUEUED_ROWS, "threads": 1, "profile_s": PROFILE_S}
    )
    return Settings(
        default_model=TINY,
        models=(tiny, kontext),
        server=ServerSettings(port=free_port(), cache_folder=folder / "cache", keep_alive_s=KEEP_ALIVE_S),
        storage=StorageSettings(folder=folder / "files", lifetime_s=3600),
        limits=LimitSettings(body_timeout_s=3, request_timeout_s=3600, requests_in_flight=REQUESTS_IN_FLIGHT),
    )
