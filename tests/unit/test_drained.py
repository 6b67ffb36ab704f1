"""A server that is told to stop: when it takes its edits for ended."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve as ray_serve
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import ApplicationStatus

from serve.deployments import app, broadcast
from serve.deployments.app import APPLICATION, INGRESS

LONG_S = 600.0
Fetch = Callable[[], Coroutine[Any, Any, list[Any]]]


class Replica:
    """edits: that it says are under way; None where it says nothing."""

    def __init__(self, edits: int | None) -> None:
        self._edits = edits

    async def get_async(self) -> int:
        if self._edits is None:
            await asyncio.Event().wait()
        assert self._edits is not None
        return self._edits

    def cancel(self) -> None:
        """It has nothing to stop."""


class Ingress:
    """What each question finds, one after the other."""

    def __init__(self, *found: Fetch) -> None:
        self.found = list(found)

    def broadcast(self, method: str) -> Any:
        assert method == "drain"
        return SimpleNamespace(_fetch_replica_results_async=self.found.pop(0))


def replicas(*edits: int | None) -> Fetch:
    async def fetch() -> list[Any]:
        return [Replica(one) for one in edits]

    return fetch


async def unknown() -> list[Any]:
    await asyncio.Event().wait()
    return []


async def unavailable() -> list[Any]:
    raise DeploymentUnavailableError(DeploymentID(INGRESS, APPLICATION))


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ingress]:
    """Ray Serve with an application of that status, or with none, and what is found when it is asked."""
    monkeypatch.setattr(broadcast, "ANSWER_TIMEOUT_S", 0.01)
    monkeypatch.setattr(app, "DRAIN_LOOK_S", 0.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_serve, "shutdown", lambda: None)

    def set_up(status: ApplicationStatus | None, *found: Fetch, deployments: tuple[str, ...] = (INGRESS,)) -> Ingress:
        told = {APPLICATION: SimpleNamespace(status=status, deployments=dict.fromkeys(deployments))} if status else {}
        ingress = Ingress(*found)
        monkeypatch.setattr(ray_serve, "status", lambda: SimpleNamespace(applications=told))
        monkeypatch.setattr(ray_serve, "get_deployment_handle", lambda *_: ingress)
        return ingress

    return set_up


@pytest.mark.parametrize("status", [ApplicationStatus.RUNNING, ApplicationStatus.UNHEALTHY])
def test_only_the_word_of_every_replica_that_nothing_runs_ends_the_wait(
    says: Callable[..., Ingress], status: ApplicationStatus
) -> None:
    looks = (unknown, unavailable, replicas(), replicas(None), replicas(0, None), replicas(0, 1), replicas(0, 0))
    ingress = says(status, *looks)
    app.stop(LONG_S)
    assert not ingress.found


def test_silence_ends_with_the_time(says: Callable[..., Ingress]) -> None:
    ingress = says(ApplicationStatus.RUNNING, *[unknown] * 1000)
    app.stop(0.05)
    assert 0 < len(ingress.found) < 1000


@pytest.mark.parametrize(
    ("status", "deployments"),
    [(None, ()), (ApplicationStatus.DEPLOY_FAILED, (INGRESS,)), (ApplicationStatus.DEPLOYING, ())],
)
def test_where_no_edit_can_run_nothing_is_waited_for(
    says: Callable[..., Ingress], status: ApplicationStatus | None, deployments: tuple[str, ...]
) -> None:
    ingress = says(status, unknown, deployments=deployments)
    app.stop(LONG_S)
    assert ingress.found
