"""The load generator against a real server that delays, refuses, breaks off and hangs."""

import asyncio
import json
import socket
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.arrivals import Arrivals, Closed, Given, Poisson, times_s
from benchmarks.bodies import Shape
from benchmarks.drive import Bounds, drive
from benchmarks.errors import BenchError, NoAnswer, NoServer
from benchmarks.figures import figures
from benchmarks.plan import MixedPlan
from benchmarks.run import Run
from benchmarks.wire import Server, stages_ms
from benchmarks.workload import Kind, Workload
from tests.unit.bench_peer import Peer, Way, serving

AT_ONCE = Given(tuple(0.0 for _ in range(200)))
WAYS = {
    "answered": [Way(), Way(delay_s=0.01)],
    "refused": [Way(429, "server_overloaded"), Way(400, "invalid_value"), Way(404, raw=b"not json")],
    "failed": [Way(500, "internal_error"), Way(drops=True), Way(pictures=0), Way(raw=b"{")],
    "unfinished": [Way(hangs=True)],
}


def plan(seed: int = 0, **fields: object) -> MixedPlan:
    small = Kind.model_validate({"name": "small", "size": "16x16", "steps": 4, "sources": 2, **fields})
    return MixedPlan(Workload(name="test", kinds=[small]), seed)


async def measure(peer: Peer, arrivals: Arrivals, bounds: Bounds, of: MixedPlan | None = None) -> Run:
    async with asyncio.timeout(60):
        return await drive(Server(peer.url), of or plan(), arrivals, replace(bounds, grace_s=min(bounds.grace_s, 20)))


async def test_every_request_that_the_server_got_is_in_the_records_once():
    with serving(Peer()) as peer:
        run = await measure(peer, Closed(3), Bounds(requests=20))
    assert [record.index for record in run.records] == list(range(20))
    assert len(peer.asked) == 20
    assert {record.outcome for record in run.records} == {"answered"}


async def test_requests_arrive_in_an_open_loop_however_long_the_server_takes():
    """The first answer comes after the last request: who waited for it before sending on would wait for ever."""
    with serving(Peer(lambda _: Way(wait_for=30))) as peer:
        run = await measure(peer, Poisson(200.0), Bounds(requests=30))
    assert [record.outcome for record in run.records] == ["answered"] * 30


async def test_a_slow_server_is_charged_for_the_wait_from_the_planned_arrival():
    with serving(Peer()) as peer:
        run = await measure(peer, Given((0.0, 0.05)), Bounds(requests=2))
    assert [record.planned_s for record in run.records] == [0.0, 0.05]
    assert all(record.latency_s == record.ended_s - record.planned_s for record in run.records)
    assert all(record.planned_s <= record.sent_s <= record.ended_s for record in run.records)


async def test_a_closed_loop_has_as_many_requests_under_way_as_workers():
    with serving(Peer(lambda _: Way(delay_s=0.05))) as peer:
        await measure(peer, Closed(4), Bounds(requests=12))
    assert peer.most_at_once == 4


async def test_what_hangs_is_given_up_and_counted():
    with serving(Peer(lambda number: Way(hangs=number % 2 == 1))) as peer:
        run = await measure(peer, AT_ONCE, Bounds(requests=10, grace_s=1.0))
    found = figures(run)
    assert (found.sent, found.answered, found.unfinished) == (10, 5, 5)
    assert found.errors == {"unfinished": 5}


async def test_a_closed_loop_whose_workers_all_hang_ends_with_its_time():
    with serving(Peer(lambda _: Way(hangs=True))) as peer:
        run = await measure(peer, Closed(2), Bounds(requests=10, duration_s=0.3, grace_s=0.1))
    assert Counter(record.outcome for record in run.records) == {"unfinished": 2}
    assert not figures(run).good


@pytest.mark.parametrize("arrivals", [Closed(2), Poisson(100.0)])
async def test_a_run_ends_with_its_time_as_well(arrivals: Arrivals):
    with serving(Peer()) as peer:
        run = await measure(peer, arrivals, Bounds(duration_s=0.3))
    assert len(run.records) == len(peer.asked) > 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from([(outcome, way) for outcome in WAYS for way in WAYS[outcome]]), max_size=12))
def test_all_that_was_sent_is_answered_refused_failed_or_unfinished(ends: list[tuple[str, Way]]):
    wanted = Counter(outcome for outcome, _ in ends)
    with serving(Peer(lambda number: ends[number][1])) as peer:
        run = asyncio.run(measure(peer, AT_ONCE, Bounds(requests=len(ends), grace_s=0.7)))
    found = figures(run)
    assert found.sent == len(peer.asked) == found.answered + found.refused + found.failed + found.unfinished
    assert Counter(record.outcome for record in run.records) == wanted


async def test_errors_are_told_by_the_apis_code_and_by_the_connections_class():
    ways = [Way(429, "server_overloaded"), Way(503, raw=b"<html>"), Way(drops=True), Way(pictures=0), Way()]
    with serving(Peer(lambda number: ways[number])) as peer:
        run = await measure(peer, Closed(1), Bounds(requests=5))
    codes = [record.code for record in run.records]
    assert codes == ["server_overloaded", "http_503", "ServerDisconnectedError", "malformed_answer", ""]
    assert [record.status for record in run.records] == [429, 503, None, 200, 200]


async def test_warm_up_requests_come_first_and_are_in_no_figure():
    with serving(Peer(lambda number: Way(429, "server_overloaded") if number < 3 else Way())) as peer:
        run = await measure(peer, Closed(4), Bounds(requests=6, warmup=4))
    assert len(peer.asked) == 10
    assert figures(run).sent == figures(run).answered == 6


async def test_a_warm_up_that_nobody_answers_ends_the_run():
    with serving(Peer(lambda _: Way(400, "invalid_value"))) as peer:
        with pytest.raises(NoAnswer, match=r"no warm-up request was answered: invalid_value \(no\)"):
            await measure(peer, Closed(1), Bounds(requests=1, warmup=2))
        assert len(peer.asked) == 2


async def test_solo_times_are_taken_one_request_at_a_time_and_scale_the_deadline():
    with serving(Peer(lambda _: Way(delay_s=0.02))) as peer:
        run = await measure(peer, Closed(1), Bounds(requests=2), plan(slo_scale=50.0))
    assert peer.most_at_once == 1
    assert len(peer.asked) == 2 + Bounds().solo_rounds
    assert run.records[0].deadline_s == pytest.approx(50.0 * run.solo_s["small"])
    assert run.solo_s["small"] >= 0.02


async def test_a_given_solo_time_is_not_measured():
    with serving(Peer()) as peer:
        run = await measure(peer, Closed(1), Bounds(requests=2), plan(slo_scale=2.0, solo_s=1.5))
    assert len(peer.asked) == 2
    assert run.records[0].deadline_s == 3.0


async def test_solo_times_of_another_run_are_not_measured_again():
    with serving(Peer()) as peer:
        bounds = Bounds(requests=2)
        solo_s = {"small": 0.25, "another": 9.0}
        run = await drive(Server(peer.url), plan(slo_scale=2.0), Closed(1), bounds, solo_s=solo_s)
    assert len(peer.asked) == 2
    assert run.solo_s == {"small": 0.25}
    assert run.records[0].deadline_s == 0.5


async def test_a_preparation_that_hangs_ends_with_its_time():
    bounds = Bounds(requests=1, warmup=1, preparation_s=0.2)
    with serving(Peer(lambda _: Way(hangs=True))) as peer, pytest.raises(NoAnswer, match=r"within 0\.2 s"):
        await measure(peer, Closed(1), bounds)


async def test_the_same_seed_sends_the_same_requests():
    bodies: list[list[bytes]] = []
    for seed in (1, 1, 2):
        with serving(Peer()) as peer:
            await measure(peer, Closed(1), Bounds(requests=4), plan(seed))
        bodies.append([asked.body for asked in peer.asked])
    assert bodies[0] == bodies[1] != bodies[2]


async def test_a_closed_loop_without_a_number_of_requests_sends_what_one_with_it_would():
    with serving(Peer()) as peer:
        await measure(peer, Closed(1), Bounds(requests=3))
        await measure(peer, Closed(1), Bounds(duration_s=0.3))
    bodies = [asked.body for asked in peer.asked]
    assert bodies[3:6] == bodies[:3]


def test_poisson_arrivals_have_their_rate_and_follow_from_the_seed():
    arrivals = times_s(Poisson(5.0), 3, 20_000, float("inf"))
    assert arrivals == times_s(Poisson(5.0), 3, 20_000, float("inf"))
    assert arrivals == sorted(arrivals)
    assert 20_000 / arrivals[-1] == pytest.approx(5.0, rel=0.001)
    gaps = np.diff(arrivals)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as those of independent arrivals are
    assert [len(times_s(Poisson(5.0), seed, None, 10.0)) for seed in range(20)] == [50] * 20
    assert max(times_s(Poisson(5.0), 3, None, 10.0)) <= 10.0


async def test_the_models_facts_and_stages_are_recorded():
    with serving(Peer()) as peer:
        run = await drive(Server(f"{peer.url}/v1/", Shape(model="small")), plan(), Closed(1), Bounds(requests=1))
    assert run.facts["id"] == "tiny"
    assert json.loads(peer.asked[0].body)["model"] == "small"
    assert run.records[0].stages_ms == {"queue": 12.5, "denoise": 80.0}


def test_server_timing_without_durations_says_nothing():
    assert stages_ms('cache;desc="hit", vae;desc="x";dur=3.5, png;dur=fast, ') == {"vae": 3.5}


async def test_one_of_several_models_must_be_named():
    models: list[dict[str, object]] = [{"id": "a"}, {"id": "b"}]
    with serving(Peer(models=models)) as peer, pytest.raises(BenchError, match="name one of a, b"):
        await measure(peer, Closed(1), Bounds(requests=1))


async def test_nobody_at_the_address_is_told():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(NoServer, match=f"no server answers at {url}"):
        await drive(Server(url), plan(), Closed(1), Bounds(requests=1))


async def test_a_key_is_sent_and_not_recorded():
    with serving(Peer()) as peer:
        run = await drive(Server(peer.url, api_key="s3cret"), plan(), Closed(1), Bounds(requests=1))
    assert peer.asked[0].headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(run)


async def test_counters_of_the_engine_are_their_growth_over_the_run():
    before = 'retouch_engine_steps_total{model="tiny",replica="a"} 10\n'
    after = before.replace("10", "30") + 'retouch_engine_row_steps_total{model="tiny",replica="a"} 60\n'
    with serving(Peer(metrics=[before, after])) as peer:
        run = await measure(peer, Closed(1), Bounds(requests=1))
    assert run.engine
    assert (run.engine.steps, run.engine.row_steps, run.engine.rows_per_step) == (20, 60, 3)


async def test_several_drives_start_their_clocks_together_in_one_loop():
    together = asyncio.Barrier(2)
    with serving(Peer()) as peer:
        bounds = Bounds(requests=5)
        runs = await asyncio.gather(
            *(drive(Server(peer.url), plan(), Closed(1), bounds, name, together) for name in "ab")
        )
    assert [run.label for run in runs] == ["a", "b"]
    assert [len(run.records) for run in runs] == [5, 5]
    begun, ended = zip(*((run.started_at, run.started_at + run.wall_s) for run in runs), strict=True)
    assert max(begun) < min(ended)


async def test_a_run_with_a_late_harness_is_not_good():
    async def block() -> None:
        while True:
            time.sleep(0.1)  # noqa: ASYNC251  # What the harness must notice.
            await asyncio.sleep(0)

    with serving(Peer()) as peer:
        blocking = asyncio.create_task(block())
        run = await measure(peer, Poisson(50.0), Bounds(requests=20))
        blocking.cancel()
    found = figures(run)
    assert not found.good
    assert any("requests were sent" in problem for problem in found.problems)
    assert found.send_lag.max_s > 0.02
