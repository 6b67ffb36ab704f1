"""What is reckoned from the costs of one edit."""

from pathlib import Path

import pytest

from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.machine import machine
from benchmarks.scale.edits import edit
from benchmarks.scale.hops import Counted, Measured, counted
from benchmarks.scale.processors import Cost
from benchmarks.scale.replicas import Overhead
from benchmarks.scale.report import Findings
from benchmarks.scale.thousand import BUSY, STEPS, Gpu, demand, most_gpus

GPU = Gpu(side=512, batch=4, step_s=0.25)
COST = Cost(512, "b64_json", 10, {"codec": 30.0, "runs": 10.0}, 100, 200)


def test_a_gpus_edits_share_its_steps():
    assert GPU.edits_per_s == pytest.approx(4 / (STEPS * 0.25))


def test_what_gpus_ask_for_grows_with_their_number():
    one, many = (demand(count, GPU, COST, Counted(512, {"body": 100})) for count in (1, 1000))
    assert one.cores["codec"] == pytest.approx(0.03 * GPU.edits_per_s)
    assert many.cores["codec"] == pytest.approx(1000 * one.cores["codec"])
    assert many.bytes_per_s["body"] == pytest.approx(100 * many.edits_per_s)


def test_a_single_process_bounds_the_gpus_in_the_way_that_burdens_it_most():
    easy = Cost(512, "url", 10, {"runs": 1.0}, 100, 200)
    other_size = Cost(1024, "url", 10, {"runs": 99.0}, 100, 200)
    bound = most_gpus(GPU, [easy, COST, other_size], "runs")
    assert bound * GPU.edits_per_s * 0.010 == pytest.approx(BUSY)
    assert most_gpus(GPU, [COST], "quotas") == float("inf")


def test_pixels_are_counted_once_however_often_they_are_named(tmp_path: Path):
    weights = flux_kontext_configurations(tmp_path / "weights")
    side = 512
    pixels = side * side * 3
    found = counted(weights, side).bytes
    assert found["request's body"] == len(edit(side, 0).body)
    assert pixels <= found["drawn pictures"] < pixels + 1000
    assert pixels + side * side <= found["prepared edit"] < pixels + side * side + 10_000  # the canvas and the mask


def test_the_page_tells_ratios_to_one_replica(tmp_path: Path):
    sides = (512, 1024)
    found = Findings(
        machine(0.0),
        [Cost(side, "b64_json, may be retried", 5, {"codec": 30.0, "runs": 10.0}, 100, 200) for side in sides],
        [Counted(side, {"body": 100}) for side in sides],
        [Measured(side, 5, {"head": 100.0}) for side in sides],
        [Overhead(count, 3, [10.0 * count, 20.0 * count, 30.0 * count], 50.0, 1.0, count) for count in (1, 2)],
    )
    page = found.write(tmp_path)
    assert "| 2 | 2 | 40 (40 to 40) | 2.00 | 50 (50 to 50) | 1.00 | 1 (1 to 1) |" in page
    assert (tmp_path / "scale.md").read_text() == page
    assert '"replicas": 2' in (tmp_path / "scale.json").read_text()
