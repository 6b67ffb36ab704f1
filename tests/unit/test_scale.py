"""What is reckoned from the costs of one edit."""

from pathlib import Path

import pytest

from benchmarks.checkpoints import flux_kontext_configurations
from benchmarks.errors import BenchError
from benchmarks.machine import machine
from benchmarks.scale.edits import edit
from benchmarks.scale.guide import BEGIN, END, guide, with_guide
from benchmarks.scale.hops import Counted, Measured, counted
from benchmarks.scale.processors import Cost
from benchmarks.scale.replicas import Overhead
from benchmarks.scale.report import Findings, page
from benchmarks.scale.thousand import BUSY, H200, STEPS, Gpu, demand, most_gpus

ROOT = Path(__file__).parents[2]
RESULTS, GUIDE = ROOT / "benchmarks" / "results", ROOT / "k8s" / "sizing.md"
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


def findings(slower: float = 1.0) -> Findings:
    """slower: how many times as long a request takes beside its drawing where there are two replicas."""
    sides = (512, 1024)
    moved = {"request's body": 10**6, "prepared edit": 2 * 10**6, "drawn pictures": 3 * 10**6}
    answers = {"answer, b64_json": 4 * 10**6, "answer, url (to the store)": 3 * 10**6}
    return Findings(
        machine(0.0),
        [Cost(side, "b64_json, may be retried", 5, {"codec": 30.0, "runs": 10.0}, 100, 200) for side in sides],
        [Counted(side, {**moved, **answers}) for side in sides],
        [Measured(side, 5, {"head": 100.0}) for side in sides],
        [
            Overhead(count, 3, [10.0 * times, 20.0 * times, 30.0 * times], 50.0, 1.0, count)
            for count, times in ((1, 1.0), (2, slower))
        ],
    )


def test_the_page_tells_ratios_to_one_replica_and_whether_they_are_flat(tmp_path: Path):
    page = findings(slower=2.0).write(tmp_path)
    assert "| 2 | 2 | 40 (40 to 40) | 2.00 | 50 (50 to 50) | 1.00 | 1 (1 to 1) |" in page
    assert "The time of a request, up to 2 replicas: 1.00 to 2.00, not met." in page
    assert "The processor time of a request, up to 2 replicas: 1.00 to 1.00, met." in page
    assert (tmp_path / "scale.md").read_text() == page


def test_what_was_measured_is_read_again(tmp_path: Path):
    found = findings()
    found.write(tmp_path)
    assert Findings.read(tmp_path) == found


@pytest.mark.parametrize(("slower", "is_flat"), [(0.79, False), (0.81, True), (1.19, True), (1.21, False)])
def test_flat_is_within_a_fifth_either_way(slower: float, is_flat: bool):
    assert (page(findings(slower)).count(", met.") == 2) is is_flat


def test_the_guide_tells_of_one_gpu():
    told = guide(findings())
    rate = H200[0].edits_per_s
    assert f"| cores of the codec | {0.03 * rate:.3f} |" in told
    assert f"| bodies that come, MB/s | {rate:.2f} |" in told
    assert "by `quotas`, likewise | any | any |" in told
    assert "| object store for each edit under way, MB | 6.0 | 6.0 |" in told
    assert f"| GPUs that a cluster can have, by `runs`, likewise | {BUSY / (0.01 * rate):,.0f} |" in told


def test_figures_go_between_their_marks_and_nothing_else_is_changed():
    text = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    assert with_guide(text, findings()) == text.replace("old", guide(findings()))
    assert with_guide(with_guide(text, findings()), findings()) == with_guide(text, findings())
    with pytest.raises(BenchError, match="no lines"):
        with_guide("before", findings())


def test_page_and_guide_tell_what_was_measured():
    measured = Findings.read(RESULTS)
    assert (RESULTS / "scale.md").read_text(encoding="utf-8") == page(measured)
    assert f"{BEGIN}\n{guide(measured)}\n{END}" in GUIDE.read_text(encoding="utf-8")
