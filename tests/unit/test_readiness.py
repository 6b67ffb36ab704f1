"""What `/readyz` answers, by what the replicas of a model say, which are all busy."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import ray
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID, ReplicaID

from serve.deployments import broadcast
from serve.deployments import editor as editor_module
from serve.deployments import ingress as ingress_module
from serve.deployments.editor import Editor
from serve.deployments.ingress import Ingress
from serve.deployments.messages import EditorState
from serve.engine.engine import Engine
from serve.errors import BackendUnavailable
from serve.families import facts_of
from serve.metrics import EngineFigures
from serve.settings import ModelSettings, ReplicaSettings, Settings, StorageSettings
from tests.fake_backend import FakeBackend
from tests.fake_family import FakeFamily
from tests.gates import TIMEOUT_S
from tests.running_engine import engine_of

Answer = Callable[[], Awaitable[object]]
MODEL = "main"
LONGEST_S = broadcast.ANSWER_TIMEOUT_S
INGRESS = DeploymentID("ingress", "retouch")


async def ready() -> object:
    return EditorState(EngineFigures("1", {}), ready=True)


async def unready() -> object:
    return EditorState(EngineFigures("1", {}), ready=False)


async def dead() -> object:
    raise RayActorError


async def silent() -> object:
    await asyncio.Event().wait()
    return None


async def pinged() -> object:
    return None


def deployed(ping: Answer, *states: Answer) -> Any:
    """A deployment's handle. ping: what comes of a call that waits its turn. states: what is asked past that."""
    actors = [SimpleNamespace(record_routing_stats=SimpleNamespace(remote=state)) for state in states]
    replicas = {place: SimpleNamespace(_actor_handle=actor) for place, actor in enumerate(actors)}
    router = SimpleNamespace(_asyncio_router=SimpleNamespace(request_router=SimpleNamespace(curr_replicas=replicas)))
    return SimpleNamespace(ping=SimpleNamespace(remote=ping), _init_router=lambda: router)


@pytest.fixture(autouse=True)
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Of this process as a replica's, in which nobody is waited for for long."""
    names = {"deployment": "ingress", "app_name": "retouch", "replica_tag": "1", "replica_id": ReplicaID("1", INGRESS)}
    context = SimpleNamespace(**names, servable_object=None)
    monkeypatch.setattr(ray_serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(ray_serve, "get_deployment_handle", lambda *_: None)
    monkeypatch.setattr(ray, "cancel", lambda _: None)
    monkeypatch.setattr(broadcast, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(ingress_module, "return_pictures_at_once", lambda: None)
    for module, deployment in ((ingress_module, Ingress), (editor_module, Editor)):
        monkeypatch.setattr(module, "adopt_serve_logging", lambda _: None)
        monkeypatch.setattr(deployment, "__del__", lambda _: None)  # Ray Serve awaits it
    yield context
    context.servable_object = None


@pytest.fixture
def ask(context: SimpleNamespace, tmp_path: Path) -> Callable[..., Awaitable[httpx.Response]]:
    """The answer where the replicas of a model, of which there are at least so many, say this."""

    async def ask(*states: Answer, least: int = 1) -> httpx.Response:
        replicas = ReplicaSettings(min=least, max=3)
        model = ModelSettings(id=MODEL, family="flux_kontext", weights="w", backend="simulated", replicas=replicas)
        settings = Settings(models=(model,), storage=StorageSettings(folder=tmp_path))
        editors = {MODEL: deployed(silent, *states)}
        made: Any = Ingress.__new__(Ingress)
        await made.__init__(settings, {MODEL: facts_of(model)}, deployed(pinged), editors, deployed(pinged), None)
        context.servable_object = made
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made.app), base_url="http://server") as client:
            return await client.get("/readyz")

    return ask


@pytest.mark.parametrize("states", [(ready,), (ready, ready), (unready, dead, silent, ready)])
async def test_a_server_whose_replicas_are_busy_is_ready_while_one_can_edit(
    ask: Callable[..., Awaitable[httpx.Response]], states: tuple[Answer, ...]
) -> None:
    answer = await ask(*states)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("states", [(), (unready,), (dead,), (silent,), (unready, dead, silent)])
async def test_a_server_is_not_ready_where_no_replica_of_a_model_can_edit(
    ask: Callable[..., Awaitable[httpx.Response]], states: tuple[Answer, ...]
) -> None:
    answer = await ask(*states)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "main is not ready")


async def test_a_model_that_may_have_no_replica_is_not_asked(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
    assert (await ask(least=0)).status_code == 200


@dataclass
class Checked(FakeBackend):
    """An executor of which `check` tells how it is."""

    checks: Callable[[], object] = bool

    def check(self) -> None:
        self.checks()


@pytest.fixture
def editor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Editor]]:
    """A replica with an engine on an executor whose `check` does this."""
    engines: list[Engine] = []

    def made(check: Callable[[], object]) -> Editor:
        engines.append(engine_of(FakeFamily(backend=Checked(checks=check))))
        monkeypatch.setattr(editor_module, "load_engine", lambda *_: engines[-1])
        return Editor(ModelSettings(id=MODEL, family="flux_kontext", weights="w"), Path(), "INFO", 1.0)

    yield made
    for engine in engines:
        engine.drain(TIMEOUT_S)


def works() -> None:
    """It answers."""


def away() -> None:
    raise BackendUnavailable("the Triton server cannot be reached; try again")


@pytest.mark.parametrize(("check", "can_edit"), [(works, True), (away, False)])
async def test_a_replica_can_edit_while_its_executor_answers(
    editor: Callable[..., Editor], check: Callable[[], object], can_edit: bool
) -> None:
    state = await editor(check).record_routing_stats()
    assert (state.ready, state.figures.values["healthy"]) == (can_edit, True)


async def test_a_replica_whose_executor_hangs_tells_its_figures(
    editor: Callable[..., Editor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor_module, "CHECK_S", 0.01)
    answers = threading.Event()
    state = await editor(answers.wait).record_routing_stats()
    answers.set()
    assert (state.ready, state.figures.values["healthy"]) == (False, True)


def test_an_executor_is_waited_for_for_less_time_than_a_replica_is() -> None:
    assert editor_module.CHECK_S < LONGEST_S
