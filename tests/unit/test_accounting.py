"""The run that accounts for every request finds whatever can go wrong: shown on servers that do it."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from benchmarks.accounting.ends import End, clients, verdict
from benchmarks.accounting.faults import Kill, by_replica, logged_ends
from benchmarks.accounting.report import Solo, Storm, accounted, markdown, reported
from benchmarks.accounting.requests import Ask, Sound, asks, malformed_requests, sound_requests
from benchmarks.scrape import Scrape
from serve.deployments.envelopes import error_response
from serve.errors import BackendUnavailable, EditError, InternalError, Overloaded
from serve.families import facts_of
from serve.prepare import Origin, prepare, read
from serve.settings import ModelSettings, Settings

SOUND = sound_requests(12, seed=1)
MALFORMED = malformed_requests(seed=1)
MODEL = ModelSettings(id="small", family="flux_kontext", weights="nowhere", backend="simulated")
SETTINGS = Settings(models=(MODEL,))
RIGHT = b'{"data": [{"b64_json": "AAAA"}]}'
ASK = Ask(0, "stay", 0, b"{}", row_steps=3)
SOLO = Solo(pictures={0: hashlib.sha256(b"AAAA").hexdigest()}, row_steps=3, owed=3, wasted=0)
LOG = """\
INFO 2026-11-23 09:19:00,502 retouch_ingress fdm1moaw storm-1 -- answered status=200 took_s=0.237 caller=[null, null]
INFO 2026-11-23 09:19:00,721 retouch_ingress fdm1moaw storm-2 -- refused status=429 code=x why="200 wait"
INFO 2026-11-23 09:19:01,000 retouch_ingress fdm1moaw storm-2 -- answered status=200 caller=["-- answered status=1 "]
INFO 2026-11-23 09:19:02,783 retouch_ingress fdm1moaw -- Drained ongoing requests; shutting down servers.
WARNING 2026-11-23 09:19:02,784 retouch_ingress fdm1moaw storm-3 -- a replica was lost: 500
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda one: one.name)
def test_each_malformed_request_breaks_the_rule_that_it_says(malformed: Any) -> None:
    with pytest.raises(EditError) as refused:
        prepare(read(malformed.body), Origin("test"), SETTINGS, {MODEL.id: facts_of(MODEL)})
    assert (refused.value.status, refused.value.code) == malformed.refusal


@pytest.mark.parametrize("sound", SOUND, ids=range(len(SOUND)))
def test_each_sound_request_runs_the_row_steps_that_it_says(sound: Sound) -> None:
    job = prepare(read(sound.body), Origin("test"), SETTINGS, {MODEL.id: facts_of(MODEL)}).job
    assert job is not None
    assert len(job.seeds) * max(1, int(job.steps * job.strength)) == sound.row_steps


def test_sound_requests_are_all_different() -> None:
    assert len({one.body for one in SOUND}) == len(SOUND)


def test_the_shares_of_clients_are_met_exactly() -> None:
    sent = asks(200, SOUND, MALFORMED, leaving=0.2, broken=0.05, seed=3)
    assert Counter(ask.way for ask in sent) == {"leave": 40, "malformed": 10, "stay": 150}
    assert [ask.index for ask in sent] == list(range(200))
    assert all((ask.refusal is None) == (ask.way != "malformed") for ask in sent)


@pytest.mark.parametrize(
    ("status", "headers", "content", "kind"),
    [
        (200, {}, RIGHT, "answered"),
        (200, {}, b'{"data": []}', "unclean"),
        (200, {}, b'{"data": [{"b64_json": "AAAA"}, {"url": "x"}]}', "unclean"),
        (200, {}, b"<html>", "unclean"),
        (200, {"x-request-id": "another"}, RIGHT, "unclean"),
        (500, {}, b"Internal Server Error", "unclean"),
        (503, {"retry-after": "1"}, b"no replica", "unclean"),
    ],
)
def test_only_complete_answers_of_the_api_are_clean(
    status: int, headers: dict[str, str], content: bytes, kind: str
) -> None:
    assert verdict(ASK, "r", status, {"x-request-id": "r", **headers}, content).kind == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Overloaded("full", retry_after_s=3), "retryable"),
        (BackendUnavailable("starting", retry_after_s=3), "retryable"),
        (Overloaded("full"), "unclean"),
        (BackendUnavailable("starting"), "unclean"),
        (InternalError("a bug"), "unclean"),
    ],
)
def test_an_error_is_retryable_where_it_says_when(error: EditError, kind: str) -> None:
    response = error_response(error)
    headers = {**response.headers, "x-request-id": "r"}
    assert verdict(ASK, "r", response.status_code, headers, bytes(response.body)).kind == kind


def test_a_malformed_request_must_be_refused_with_its_own_code() -> None:
    ask = replace(ASK, way="malformed", refusal=(400, "invalid_json"))
    for code, kind in (("invalid_json", "refused"), ("invalid_value", "unclean")):
        error = {"message": "m", "type": "invalid_request_error", "param": None, "code": code}
        assert verdict(ask, "r", 400, {"x-request-id": "r"}, json.dumps({"error": error}).encode()).kind == kind
    assert verdict(ask, "r", 200, {"x-request-id": "r"}, RIGHT).kind == "unclean"


async def test_a_broken_connection_is_a_lost_request() -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    assert [end.kind for end in await _ended(drop, [ASK])] == ["lost"]


async def test_what_never_ends_is_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.accounting.ends.HUNG_AFTER_S", 0.05)
    assert [end.kind for end in await _ended(_hang, [ASK])] == ["hung"]


async def test_a_client_that_leaves_closes_its_connection() -> None:
    left = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        try:
            return await _hang(request)
        finally:
            left.set()

    ends = await _ended(hang, [replace(ASK, way="leave", leaves_after=0.05)], until=left)
    assert [end.kind for end in ends] == ["left"]


async def test_every_request_ends_once_whatever_becomes_of_it() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(body=RIGHT, headers={"x-request-id": request.headers["x-request-id"]})

    sent = [replace(ASK, index=index) for index in range(40)]
    ends = await _ended(answer, sent)
    assert sorted(end.ask.index for end in ends) == list(range(40))
    assert {(end.kind, end.pictures) for end in ends} == {("answered", SOLO.pictures[0])}


def test_the_log_tells_each_end_of_a_request(tmp_path: Path) -> None:
    (tmp_path / "replica_retouch_ingress_fdm1moaw.log").write_text(LOG)
    assert logged_ends(tmp_path) == {"storm-1": Counter({"200": 1}), "storm-2": Counter({"429": 1, "200": 1})}


def test_metrics_are_told_apart_by_replica() -> None:
    text = """# TYPE retouch_engine_waiting_rows gauge
retouch_engine_waiting_rows{model="m",replica="a"} 1.0
retouch_engine_waiting_rows{model="m",replica="b"} 2.0
retouch_engine_waiting_rows{model="other",replica="c"} 3.0
"""
    assert by_replica(Scrape.of(text, "m")) == {"a": {"waiting_rows": 1.0}, "b": {"waiting_rows": 2.0}}


def test_a_run_in_order_has_no_faults() -> None:
    account = accounted(_storm(), SOLO, {"r": Counter({"200": 1})})
    assert (account.kinds, account.faults) == ({"right": 1}, [])


@pytest.mark.parametrize(
    ("storm", "solo", "logged", "said"),
    [
        ({"pictures": "others"}, {}, {"200": 1}, "wrong"),
        ({"kind": "hung"}, {}, {}, "hung"),
        ({"kind": "lost"}, {}, {}, "lost"),
        ({"kind": "unclean", "detail": "500"}, {}, {}, "unclean"),
        ({}, {}, {"200": 2}, "2 times"),
        ({"kind": "left"}, {}, {"200": 2}, "2 times"),
        ({}, {}, {}, "the log tells"),
        ({}, {"row_steps": 4}, {"200": 1}, "4 row-steps"),
        ({}, {"wasted": 1}, {"200": 1}, "1 in vain"),
    ],
)
def test_each_fault_is_told(storm: dict[str, Any], solo: dict[str, Any], logged: dict[str, int], said: str) -> None:
    (fault,) = accounted(_storm(**storm), replace(SOLO, **solo), {"r": Counter(logged)}).faults
    assert said in fault


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settled": False}, "rows were left"),
        ({"sent": 2}, "1 of 2 requests"),
        ({"kills": [Kill("codec", 1, 0.0, None)]}, "the killed codec"),
    ],
)
def test_faults_of_the_whole_run_are_told(fields: dict[str, Any], said: str) -> None:
    (fault,) = accounted(replace(_storm(), **fields), SOLO, {"r": Counter({"200": 1})}).faults
    assert said in fault


def test_a_request_without_a_solo_answer_is_no_right_one() -> None:
    assert accounted(_storm(), replace(SOLO, pictures={}), {"r": Counter({"200": 1})}).kinds == {"wrong": 1}


def test_retryable_answers_belong_to_the_kill_before_them() -> None:
    ends = [_end(ask=replace(ASK, index=int(at_s)), kind="retryable", ended_s=at_s) for at_s in (0.5, 2.0, 3.0, 9.0)]
    kills = [Kill("editor of m", 1, 1.0, 4.0), Kill("codec", 2, 6.0, 1.0)]
    storm = replace(_storm(), ends=ends, kills=kills, sent=len(ends))
    report = reported(storm, SOLO, accounted(storm, SOLO, {}))
    assert [(one["retryable"], one["last_retryable_after_s"]) for one in report["kills"]] == [(2, 2.0), (1, 3.0)]
    assert "| killed codec: all replicas again after | 1.0 s |" in markdown(report)


async def _hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def _ended(handler: Handler, sent: list[Ask], until: asyncio.Event | None = None) -> list[End]:
    async with _serving(handler) as url, clients(url, "test") as client:
        await client.run(sent, concurrency=4)
        if until:
            await asyncio.wait_for(until.wait(), 10)
        return client.ends


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_post("/v1/images/edits", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _end(**fields: Any) -> End:
    end = End(ASK, "r", "answered", 0.0, 1.0, status=200, pictures=SOLO.pictures[0])
    return replace(end, **fields)


def _storm(**fields: Any) -> Storm:
    return Storm(ends=[_end(**fields)], kills=[], took_s=1.0, settled=True, last={}, row_steps=3.0, wasted=0.0, sent=1)
