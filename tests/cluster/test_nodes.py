"""The application on several nodes, as KubeRay deploys it: where its processes run, how they come and go with work, and
what becomes of requests while its configuration is changed."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.accounting.requests import sound_requests
from benchmarks.chaos.clients import Request, clients
from tests.cluster.conftest import WORKER, Deployed, deployed
from tests.http.api import EDITS, drawing_request, files, refusal
from tests.waiting import eventually

PATIENCE_S, POLL_S = 120.0, 0.5
SENDING = 4
THINK_S = 0.5
BUSY_S = 3.0
"""Before a configuration is changed, and after it has come into effect."""

CHANGING = (503, "server_error", "backend_unavailable", None)
GONE = (404, "not_found_error", "model_not_found", "model")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, only_cluster: None) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("cluster")) as found:
        found.nodes.deploy(found.config(*_models(found)))
        found.nodes.wait_until_running()
        yield found


def _models(served: Deployed, **changes: Any) -> list[dict[str, Any]]:
    """`wide` fills more than half of each GPU, so that its replicas cannot share one. changes: of it."""
    pool = {"min": 1, "max": 3, "max_wait_s": 2, "upscale_delay_s": 0, "downscale_delay_s": 4}
    return [
        served.model("wide", replicas=2, num_gpus=0.6, **changes),
        served.model("pool", replicas=pool, num_gpus=0.4),
        served.model("spare"),
    ]


def test_replicas_are_spread_over_the_nodes(served: Deployed) -> None:
    for deployment in ("editor-wide", "ingress", "codec"):
        assert len({one.node for one in served.nodes.replicas(deployment)}) == 2, deployment


def test_every_node_answers(served: Deployed) -> None:
    proxies = {one.pid: one for one in served.nodes.processes("ray::ProxyActor")}
    assert len(proxies) == 3
    answered: set[int] = set()

    def all_have_answered() -> bool:
        with httpx.Client(base_url=served.url, timeout=60) as client:  # with a connection of its own
            answer = client.get("/readyz")
            assert answer.status_code == 200
            port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
            answered.update(pid for pid, process in proxies.items() if _has_connection_to(process, port))
        return answered == proxies.keys()

    eventually(all_have_answered)


def test_a_replica_without_room_starts_on_the_node_that_is_added_and_no_edit_is_lost(served: Deployed) -> None:
    grown = threading.Event()

    def ask_until_grown(seed: int) -> list[httpx.Response]:
        answers = [_edit(served, model="pool", num_inference_steps=40, seed=seed)]
        while not grown.is_set():
            answers.append(_edit(served, model="pool", num_inference_steps=40, seed=seed))
        return answers

    with ThreadPoolExecutor(32) as threads:
        asking = [threads.submit(ask_until_grown, seed) for seed in range(32)]
        try:
            eventually(lambda: _states(served, "editor-pool") == {"RUNNING": 2, "STARTING": 1}, PATIENCE_S, POLL_S)
            served.nodes.add("three", **WORKER)
            eventually(lambda: len({one.node for one in served.nodes.replicas("editor-pool")}) == 3, PATIENCE_S, POLL_S)
        finally:
            grown.set()
        assert {answer.status_code for one in asking for answer in one.result()} == {200}
    eventually(lambda: _states(served, "editor-pool") == {"RUNNING": 1}, PATIENCE_S, POLL_S)


async def test_a_change_of_a_models_configuration_fails_no_request(served: Deployed) -> None:
    before = await asyncio.to_thread(_edit, served, num_inference_steps=None)
    requests = await _while_sending(
        served, lambda: _deploy(served, *_models(served, max_batch=4, num_inference_steps=3))
    )
    _assert_each_was_answered_at_once(requests)
    three, after = [await asyncio.to_thread(_edit, served, num_inference_steps=steps) for steps in (3, None)]
    assert files(before) != files(three) == files(after)
    settings = served.nodes.application()["deployments"]["editor-wide"]["deployment_config"]
    assert settings["num_replicas"] == 2


async def test_a_model_comes_and_another_goes_and_the_others_answer_all_along(served: Deployed) -> None:
    watched: dict[str, list[httpx.Response]] = {"spare": [], "new": []}
    watching = [asyncio.create_task(_ask_again_and_again(served, model, got)) for model, got in watched.items()]
    long = asyncio.create_task(
        asyncio.to_thread(_edit, served, model="spare", num_inference_steps=100, n=4, size="512x512")
    )
    wide, pool, _ = _models(served)
    try:
        requests = await _while_sending(served, lambda: _deploy(served, wide, pool, served.model("new")))
    finally:
        for one in watching:
            one.cancel()
    _assert_each_was_answered_at_once(requests)
    assert len(files(await long)) == 4
    assert _ends(watched["spare"]) <= {200, CHANGING, GONE}
    assert _ends(watched["new"]) <= {200, CHANGING, GONE}
    assert refusal(await asyncio.to_thread(_edit, served, model="spare")) == GONE
    assert len(files(await asyncio.to_thread(_edit, served, model="new"))) == 1
    assert "editor-spare" not in served.nodes.application()["deployments"]


async def test_a_configuration_that_cannot_start_ends_nothing_that_serves(served: Deployed) -> None:
    wide, pool, _ = _models(served)
    broken = served.model("new", simulated={"timings": "/nowhere.yaml"})

    def fails() -> None:
        served.nodes.deploy(served.config(wide, pool, broken))
        eventually(lambda: served.nodes.application()["status"] == "DEPLOY_FAILED", PATIENCE_S, POLL_S)

    assert len(files(await asyncio.to_thread(_edit, served, model="new"))) == 1
    _assert_each_was_answered_at_once(await _while_sending(served, fails))
    assert len(files(await asyncio.to_thread(_edit, served, model="new"))) == 1


async def _while_sending(served: Deployed, change: Callable[[], None]) -> list[Request]:
    """What became of requests to the model that is not named while that ran in another thread."""
    async with clients(served.url, sound_requests(8, seed=0), THINK_S) as sending:
        await sending.learn()
        async with sending.running(SENDING):
            await asyncio.sleep(BUSY_S)
            await asyncio.to_thread(change)
            await asyncio.sleep(BUSY_S)
        return sending.requests


def _deploy(served: Deployed, *models: dict[str, Any]) -> None:
    served.nodes.deploy(served.config(*models))
    served.nodes.wait_until_running()


def _assert_each_was_answered_at_once(requests: list[Request]) -> None:
    assert len(requests) > SENDING
    assert [one for one in requests if len(one.tries) > 1 or one.last.kind != "right"] == []


async def _ask_again_and_again(served: Deployed, model: str, answers: list[httpx.Response]) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as client:
        while True:
            answers.append(await client.post(EDITS, json=drawing_request(model=model)))
            await asyncio.sleep(THINK_S)


def _ends(answers: list[httpx.Response]) -> set[Any]:
    return {200 if answer.status_code == 200 else refusal(answer) for answer in answers}


def _edit(served: Deployed, **fields: Any) -> httpx.Response:
    return httpx.post(served.url + EDITS, json=drawing_request(**fields), timeout=PATIENCE_S)


def _states(served: Deployed, deployment: str) -> dict[str, int]:
    found = [one["state"] for one in served.nodes.application()["deployments"][deployment]["replicas"]]
    return {state: found.count(state) for state in set(found)}


def _has_connection_to(process: psutil.Process, port: int) -> bool:
    return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp"))
