"""Figures from records that are made by hand, against numpy and against what is known of the server they stand for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Spread, denoise_s, figures, saturated_window
from benchmarks.run import Lag, Load, Machine, Outcome, Record, Run
from benchmarks.scrape import Scrape, engine
from benchmarks.steplog import Step

QUIET = Lag(0.0, 0.0, 0.0)
MACHINE = Machine("a processor", 2, 2**33, "Linux", 0.5, 0.7, {"python": "3.11"})


def record(index: int, sent_s: float, ended_s: float, outcome: Outcome = "answered", **more: object) -> Record:
    fields = {"kind": "a", "planned_s": sent_s, "rows": 1, "images": int(outcome == "answered"), **more}
    return Record(index=index, sent_s=sent_s, ended_s=ended_s, outcome=outcome, **fields)  # pyright: ignore[reportArgumentType]


def run_of(records: list[Record], load: Load | None = None, **more: object) -> Run:
    fields: dict[str, object] = {
        "label": "tiny test",
        "url": "http://127.0.0.1:1",
        "form": "json",
        "extra_fields": [],
        "model": "",
        "facts": {"id": "tiny"},
        "workload": "test",
        "plan": {},
        "withheld": [],
        "load": load or Load("poisson", rate=1.0),
        "seed": 0,
        "requests": None,
        "duration_s": 60.0,
        "grace_s": 1.0,
        "warmup": 0,
        "started_at": 1.8e9,
        "wall_s": max((r.ended_s for r in records), default=0.0),
        "solo_s": {},
        "loop_lag": QUIET,
        "engine": None,
        "machine": MACHINE,
        "records": records,
    }
    return Run(**{**fields, **more})  # pyright: ignore[reportArgumentType]


def lock_step(workers: int, waves: int, wave_s: float) -> list[Record]:
    """A server that answers all at once, wave after wave."""
    times = [(wave * wave_s, (wave + 1) * wave_s) for wave in range(waves) for _ in range(workers)]
    return [record(index, sent, ended) for index, (sent, ended) in enumerate(times)]


def one_by_one(workers: int, requests: int, took_s: float) -> list[Record]:
    """A server that works on one request at a time, in their order."""
    return [record(index, max(0, index + 1 - workers) * took_s, (index + 1) * took_s) for index in range(requests)]


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=200))
def test_percentiles_are_numpys(values: list[float]):
    spread = Spread.of(values)
    assert spread
    assert [spread.p50, spread.p90, spread.p95, spread.p99] == list(np.percentile(values, [50, 90, 95, 99]))
    assert spread.mean == np.mean(values)
    assert spread.max == max(values)


def test_latency_counts_from_the_planned_arrival_and_only_what_was_answered():
    late = record(0, 2.0, 3.0, planned_s=0.5)
    refused = record(1, 2.0, 9.0, "refused", code="server_overloaded")
    found = figures(run_of([late, refused]))
    assert found.latency
    assert (found.latency.count, found.latency.max) == (1, 2.5)
    assert found.errors == {"server_overloaded": 1}


@pytest.mark.parametrize("waves", [3, 4, 10])
def test_the_throughput_of_workers_in_lock_step_is_exact(waves: int):
    found = figures(run_of(lock_step(4, waves, 2.0), Load("closed", concurrency=4)))
    assert found.images_per_s == pytest.approx(2.0)


@pytest.mark.parametrize("requests", [12, 40])
def test_the_throughput_of_a_server_that_takes_one_after_the_other_is_exact(requests: int):
    found = figures(run_of(one_by_one(4, requests, 0.5), Load("closed", concurrency=4)))
    assert found.images_per_s == pytest.approx(2.0)
    assert found.requests_per_s == pytest.approx(2.0)


def test_the_saturated_window_leaves_out_the_ramp_and_the_tail():
    """Three workers, one request a second each; the first wave ends at 1, and at 4 the first worker finds no more."""
    records = [record(i, at, at + 1.0) for i, at in enumerate([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])]
    records[-1] = record(11, 3, 60.0)
    window = saturated_window(records, 3)
    assert window
    assert (window.from_s, window.to_s) == (1.0, 4.0)
    found = figures(run_of(records, Load("closed", concurrency=3)))
    assert found.images_per_s == pytest.approx((3 + 3 + 2) / 3)


def queued(requests: int, workers: int, stages: bool = True) -> list[Record]:
    """One at a time, 1 s and 10 row-steps each, of which 0.1 s in `vae` and `png`; the others wait."""
    timing = {"queue": 5.0, "denoise": 900.0, "vae": 60.0, "png": 40.0}
    return [
        replace(one, row_steps=10, stages_ms=timing if stages else {})
        for one in one_by_one(workers, requests, took_s=1.0)
    ]


def test_the_time_in_a_queue_is_no_work_done():
    """A long request, 12 s under way, ran in its last second alone, after the window. Spread over its time under way it
    would give the window 90 of its 100 row-steps."""
    records = [*queued(10, 2)]
    records.append(record(10, 1.0, 13.0, row_steps=100, stages_ms={"denoise": 1000.0, "vae": 0.0, "png": 0.0}))
    window = saturated_window(records, 2)
    assert window
    found = figures(run_of(records, Load("closed", concurrency=2)))
    within = [one for one in queued(10, 2) if window.from_s < one.ended_s - 0.1 <= window.to_s]
    assert found.row_steps_counted_by == "denoise stage"
    assert found.row_steps_per_s == pytest.approx(10 * len(within) / window.length_s, rel=0.02)


def test_a_request_counts_where_its_denoise_stage_lies():
    assert denoise_s(queued(1, 1)[0]) == pytest.approx((0.0, 0.9))
    assert denoise_s(record(0, 0.0, 1.0)) is None


def test_without_server_timing_requests_count_where_they_end():
    found = figures(run_of(queued(20, 4, stages=False), Load("closed", concurrency=4)))
    assert (found.counted_by, found.row_steps_counted_by) == ("completions", "completions")
    assert found.row_steps_per_s == pytest.approx(10.0)


def test_a_step_log_counts_the_rows_of_the_steps_within_the_window():
    """Steps of 0.5 s with 3 rows, with a pause of as long after each: 3 rows a second, whatever requests say."""
    run = run_of(queued(20, 4), Load("closed", concurrency=4))
    steps = [Step(run.started_at + number, 0.5, 3) for number in range(-5, 40)]
    found = figures(replace(run, steps=steps))
    assert found.row_steps_counted_by == "step log"
    assert found.row_steps_per_s == pytest.approx(3.0, rel=1e-4)
    assert (found.counted_by, found.images_per_s) == ("denoise stage", pytest.approx(1.0, rel=0.02))


@pytest.mark.parametrize(
    ("count", "told"), [(9, []), (10, ["p90"]), (20, ["p90", "p95"]), (100, ["p90", "p95", "p99"])]
)
def test_a_percentile_needs_enough_values(count: int, told: list[str]):
    spread = Spread.of([float(value) for value in range(count)])
    assert spread
    assert [part for part in ("p90", "p95", "p99") if spread.told(part) is not None] == told
    assert spread.told("max") == count - 1


def test_a_short_window_is_a_caution_and_no_problem():
    found = figures(run_of(one_by_one(4, 8, 0.5), Load("closed", concurrency=4)))
    assert found.good
    assert found.cautions == ["only 1 requests ended in the saturated window of 4 workers"]


def test_no_window_no_throughput():
    found = figures(run_of(lock_step(4, 1, 1.0), Load("closed", concurrency=4)))
    assert found.images_per_s is None
    assert any("no saturated window" in note for note in found.notes)


def test_the_throughput_of_an_open_loop_is_over_the_time_to_the_last_answer():
    records = [record(0, 0.0, 1.0, images=3), record(1, 1.0, 4.0), record(2, 2.0, 9.0, "unfinished")]
    found = figures(run_of(records))
    assert found.images_per_s == 1.0
    assert found.requests_per_s == 0.5
    assert found.offered_per_s == 1.0


def test_row_steps_a_second_are_unknown_where_one_request_leaves_them_to_the_model():
    known = [record(0, 0.0, 1.0, row_steps=4), record(1, 0.0, 2.0, row_steps=8)]
    assert figures(run_of(known)).row_steps_per_s == 6.0
    assert figures(run_of([*known, record(2, 0.0, 2.0)])).row_steps_per_s is None


def test_what_was_not_answered_has_missed_its_deadline():
    records = [
        record(0, 0.0, 1.0, deadline_s=1.0),
        record(1, 0.0, 1.1, deadline_s=1.0),
        record(2, 0.0, 0.1, "refused", deadline_s=1.0),
        record(3, 0.0, 0.5, "unfinished", deadline_s=1.0),
        record(4, 0.0, 9.0, kind="b"),
    ]
    found = figures(run_of(records, solo_s={"a": 0.5}))
    assert found.within_deadline == 0.25
    assert found.kinds["a"].within_deadline == 0.25
    assert found.kinds["a"].solo_s == 0.5
    assert found.kinds["b"].within_deadline is None


def test_stages_are_those_of_answered_requests():
    records = [
        record(0, 0.0, 1.0, stages_ms={"queue": 10.0}),
        record(1, 0.0, 1.0, stages_ms={"queue": 30.0, "png": 4.0}),
    ]
    stages = figures(run_of(records)).stages_ms
    assert stages["queue"].mean == 20.0
    assert (stages["png"].count, stages["png"].p99) == (1, 4.0)


@pytest.mark.parametrize(
    ("latency_s", "lag", "good"),
    [(1.0, Lag(0.0, 0.049, 0.2), True), (1.0, Lag(0.0, 0.051, 0.2), False), (0.1, Lag(0.0, 0.019, 0.2), True)],
)
def test_a_run_is_good_while_the_harness_keeps_up(latency_s: float, lag: Lag, good: bool):
    found = figures(run_of([record(0, 0.0, latency_s)], loop_lag=lag))
    assert found.good == good
    assert bool(found.problems) != good


def test_a_run_without_an_answer_is_not_good():
    assert figures(run_of([record(0, 0.0, 1.0, "failed", code="internal_error")])).problems == [
        "no request was answered"
    ]


BEFORE = """# TYPE retouch_engine_steps counter
retouch_engine_steps_total{model="a",replica="1"} 100
retouch_engine_steps_total{model="a",replica="2"} 50
retouch_engine_steps_total{model="b",replica="1"} 7
retouch_engine_cache_hits_total{model="a",replica="1",kind="text"} 5
"""
AFTER = """# TYPE retouch_engine_steps counter
retouch_engine_steps_total{model="a",replica="1"} 110
retouch_engine_steps_total{model="a",replica="2"} 20
retouch_engine_steps_total{model="b",replica="1"} 900
retouch_engine_row_steps_total{model="a",replica="1"} 60
retouch_engine_passes_total{model="a",replica="1"} 80
retouch_engine_filler_passes_total{model="a",replica="1"} 20
retouch_engine_cache_hits_total{model="a",replica="1",kind="text"} 8
retouch_engine_cache_misses_total{model="a",replica="1",kind="text"} 9
retouch_engine_memory_peak_bytes{model="a",replica="1"} 1000
retouch_engine_memory_peak_bytes{model="a",replica="2"} 3000
"""


def test_counters_grow_by_replica_and_start_anew_with_a_new_process():
    """Replica 1 ran 10 steps, replica 2 was started again and has run 20 since."""
    found = engine(Scrape.of(BEFORE, "a"), Scrape.of(AFTER, "a"))
    assert found
    assert (found.steps, found.row_steps, found.rows_per_step) == (30, 60, 2)
    assert found.filler_share == 0.25
    assert found.hit_rates == {"text": 0.25}
    assert found.memory_peak_bytes == 3000
    assert found.wasted_row_steps is None


def test_a_server_without_the_models_metrics_tells_nothing():
    assert engine(Scrape(), Scrape.of(AFTER, "another")) is None
