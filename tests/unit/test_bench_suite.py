"""What the suite makes of its runs: capacity, pooled percentiles, repeated runs, marks, and the page of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.engine_figures import rate_of
from benchmarks.errors import BenchError
from benchmarks.goals import MARK, table
from benchmarks.measured import median_of, parts_of, pooled_ratio, pooled_tail, pooled_within_deadline, tail_of
from benchmarks.played import H200, PLAYED
from benchmarks.results_page import Results, runs_table
from benchmarks.run import Lag, Load, Record, Run
from benchmarks.steplog import Step
from benchmarks.suite import capacity, first_steps, repeated_once
from serve.types import EditJob
from tests.unit.test_bench_figures import one_by_one, record, run_of

LATE = Lag(0.1, 0.5, 0.9)
FACTS = {"backend": "simulated", "simulated": {"timings": "h200-512px", "speed": 2}}


def quick(record: Record) -> bool:
    return record.kind == "a"


def latencies(*values: float, **more: Any) -> Run:
    return run_of([record(number, 0.0, value) for number, value in enumerate(values)], **more)


def saturated() -> Run:
    """One at a time: a step takes 0.1 s, an edit 12 of them and 0.3 s of everything else."""
    records = [replace(one, row_steps=12) for one in one_by_one(8, 40, took_s=1.5)]
    run = run_of(records, Load("closed", concurrency=8), facts=FACTS)
    began = [run.started_at + 1.5 * edit + 0.1 * number for edit in range(40) for number in range(12)]
    return replace(run, steps=[Step(at, 0.1, 1) for at in began])


def test_capacity_is_what_the_step_log_says_of_back_to_back_service():
    found = capacity([saturated()] * 2)
    assert found.per_s == pytest.approx(1 / 1.5)
    assert (found.model, found.device, found.edits) == ("tiny test", "simulated h200-512px x2", 50)
    assert found.window_s == pytest.approx(75.0)


def test_a_capacity_is_never_guessed():
    with pytest.raises(BenchError, match="too short for a capacity"):
        capacity([saturated(), replace(saturated(), steps=[])])


def test_a_load_is_never_guessed(tmp_path: Path):
    with pytest.raises(BenchError, match="measure it as well"):
        Results(tmp_path).capacity(H200)


def test_a_long_run_is_measured_once_and_told_in_parts():
    at_s = [*np.linspace(0, 59, 30), *np.linspace(60, 119, 10)]
    records = [record(index, at, at + 1) for index, at in enumerate(at_s)]
    parts = parts_of(run_of(records, duration_s=120.0), 2)
    assert [len(part.records) for part in parts] == [30, 10]
    found = pooled_ratio(parts, parts, lambda _: True, "p95")
    assert (found.value, found.runs, found.n) == (1.0, (1.0,), "40 / 40 edits, 1 run")


@pytest.mark.parametrize(("samples", "tail"), [(100, "p99"), (99, "p95"), (20, "p95"), (19, "max")])
def test_a_tail_of_few_values_is_told_by_the_name_of_what_it_is(samples: int, tail: str):
    assert tail_of(samples, "p99") == tail


def test_percentiles_are_of_the_requests_of_all_runs_together():
    """Of 40 one is slow: p95 of both runs' requests does not see it, that of the one run's would."""
    slow, even = latencies(*[2.0] * 19, 100.0), latencies(*[2.0] * 20, started_at=1.0)
    found = pooled_ratio([slow, even], [latencies(*[1.0] * 20)] * 2, quick, "p95")
    assert found.value == 2.0
    assert (found.tail, found.n) == ("p95", "40 / 40 edits, 2 runs")
    assert found.runs == (pytest.approx(6.9), 2.0)


def test_both_sides_of_a_ratio_have_the_same_tail():
    found = pooled_ratio([latencies(*[2.0] * 120)], [latencies(*[1.0] * 9, 4.0)], quick, "p99")
    assert (found.value, found.tail) == (0.5, "maximum")


def test_shares_are_of_all_requests_with_a_deadline():
    runs = [
        run_of([record(i, 0.0, 1.0, deadline_s=2.0 - late) for i in range(sent)], started_at=late)
        for late, sent in ((0.0, 3), (1.5, 1))
    ]
    found = pooled_within_deadline(runs)
    assert (found.value, found.runs, found.n) == (0.75, (1.0, 0.0), "4 edits, 2 runs")


def test_the_wait_for_the_first_step_is_told_in_steps():
    run = run_of([record(0, 0.0, 1.0, stages_ms={"queue": 100.0, "encode": 50.0}), record(1, 0.0, 1.0, "refused")])
    assert first_steps(run, [Step(0.0, 0.1, 1), Step(0.1, 0.2, 1)]) == pytest.approx([1.0])
    assert pooled_tail([[1.0] * 60, [3.0] * 40], [], "p99").value == 3.0


async def test_a_run_with_a_late_harness_is_made_again_once_and_what_is_late_again_is_marked():
    late, good = latencies(1.0, loop_lag=LATE), latencies(1.0)
    assert await attempts([late, good]) == ([good], [late])
    assert await attempts([good, late]) == ([good], [])
    kept, repeated = await attempts([late, late, good])
    assert (kept, repeated) == ([late], [late])
    markdown = table({"ours/S": median_of([2.0], kept)})
    assert f"| met {MARK} |" in markdown
    assert "the harness's event loop was 500 ms late" in markdown


async def attempts(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    each = iter(runs)

    async def attempt() -> list[Run]:
        return [next(each)]

    return await repeated_once(attempt)


def test_the_page_tells_of_every_run_what_speaks_against_it():
    line = runs_table([latencies(1.0, loop_lag=LATE, facts=FACTS)]).splitlines()[-1]
    for told in (
        "simulated h200-512px x2",
        "1 / 1",
        "0.5 to 0.7",
        "NOT GOOD: the harness's event loop was 500 ms late",
    ):
        assert told in line


def test_a_goal_names_its_device_its_tail_and_its_values():
    found = pooled_ratio([latencies(*[8.0] * 20)], [latencies(*[1.0] * 20)], quick, "p95")
    line = table({"short p95 512": found}).splitlines()[-1]
    assert line.startswith("| p95 of edits of at most 8 steps")
    assert "(simulated h200-512px x2) | &ge; 8 | 8 |" in line
    assert "20 / 20 edits, 1 run | met |" in line


def test_what_is_compared_side_by_side_runs_on_equal_devices():
    timings = {name: played.timings for name, played in PLAYED.items()}
    assert timings["ours"] == timings["requests"] == timings["single"] == H200
    assert timings["ours-linear"] == timings["single-linear"]
    assert timings["ours-calm"] == timings["single-calm"] == timings["requests-calm"] == H200


def test_offline_jobs_are_made_before_the_clock_runs():
    """A job takes 1 s, its making 100 s more, on a clock that moves with them alone."""
    now = [0.0]

    def passes(seconds: float) -> Callable[[EditJob], None]:
        def work(_: EditJob) -> None:
            now[0] += seconds

        return work

    def made(number: int) -> EditJob:
        now[0] += 100.0
        return job(number)

    assert rate_of(passes(1.0), (made(number) for number in range(3)), 10.0, clock=lambda: now[0]) == 1.0


def job(number: int) -> EditJob:
    return EditJob(f"r{number}", "", np.zeros((1, 1, 3), np.uint8), (), None, (0,), 1, 1.0, 1.0)
