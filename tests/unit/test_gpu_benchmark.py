"""The GPU benchmark without a GPU: counted operations, what is skipped, tables, and small networks timed on the CPU."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu import (
    BATCHES,
    EAGER,
    PIXELS,
    Bench,
    Case,
    Network,
    Recordable,
    cases,
    foreseen_s,
    measured,
    networks,
)
from benchmarks.gpu_report import GOALS, Budget, Report, Row, markdown, tflop_of, timing_of, verdicts, write
from benchmarks.gpu_tensorrt import Library, NotThere, example_lengths, write_plan
from serve.types import Axis, ComponentSpec, TensorSpec

DENOISER = GOALS[0].network
TINY = ComponentSpec(
    name="tiny",
    inputs=(TensorSpec("tokens", "float32", ("batch", "tokens", 8)),),
    outputs=(TensorSpec("answer", "float32", ("batch", "tokens", 8)),),
    axes=(Axis("batch", 1, 1, 8), Axis("tokens", 1, 16, 4096)),
)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class Attending(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


class Greedy(Tiny):
    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.device.type != "meta":
            raise torch.OutOfMemoryError("2 GiB")
        return super().forward(tokens)


class Broken(Tiny):
    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.device.type != "meta":
            raise RuntimeError("no kernel for this\nand advice")
        return super().forward(tokens)


def tiny(module: type[Tiny] = Tiny) -> Network:
    return Network("tiny", TINY, lambda device: module().to(device), lambda pixels: {"tokens": pixels})


def report(*rows: Row) -> Report:
    """With a ceiling of 100 TFLOP/s."""
    return Report({"GPU": "none"}, 1.0, timing_of([9.0, 10.0, 12.0]), list(rows))


def row(pixels: int, median_ms: float, tflop: float = 1.0) -> Row:
    return Row(DENOISER, "CUDA graphs", pixels, 1, tflop, timing_of([median_ms]), 3.0)


def test_operations_of_products_and_attention_are_counted_by_their_formula():
    tokens = torch.empty(2, 3, 16, 8, device="meta")

    assert tflop_of(Tiny().to("meta"), {"tokens": tokens}) == pytest.approx(2 * (2 * 3 * 16) * 8 * 8 / 1e12)
    assert tflop_of(Attending(), {"tokens": tokens}) == pytest.approx(2 * (2 * 3 * 2 * 16 * 16 * 8) / 1e12)


def test_a_step_of_kontext_at_1024_pixels_with_one_reference_takes_165_tflop():
    """As counted by hand from its 57 blocks; its text takes part."""
    denoiser = networks()[0]

    assert denoiser.tflop(1024, 1) == pytest.approx(165.4, rel=0.01)
    assert denoiser.tflop(1024, 4) == 4 * denoiser.tflop(1024, 1)
    assert denoiser.weight_bytes == pytest.approx(2 * 11.9e9, rel=0.01)


def test_the_unet_has_the_size_of_stable_diffusion_1_5():
    """0.86 billion weights; 0.68 TFLOP at 512 pixels are what others report for the denoiser."""
    unet = networks()[3]

    assert unet.weight_bytes == pytest.approx(2 * 0.86e9, rel=0.01)
    assert unet.tflop(512, 1) == pytest.approx(0.68, rel=0.2)


def test_every_size_and_batch_of_the_denoiser_is_measured_in_the_order_of_its_weight():
    planned = cases()

    assert (planned[0].network.name, planned[0].pixels, planned[0].batch) == (DENOISER, 1024, 1)
    found = {(case.pixels, case.batch) for case in planned if case.network.name == DENOISER}
    assert found == {(pixels, batch) for pixels in PIXELS for batch in BATCHES}
    assert {(goal.pixels, goal.batch) for goal in GOALS} <= {(case.pixels, case.batch) for case in planned[:6]}


def test_a_network_is_timed_and_its_rate_is_a_share_of_the_ceiling():
    found = measured(Case(tiny(), EAGER, 64, 2), report(), Bench(torch.device("cpu")), Budget.of_minutes(1))

    assert found.timing is not None
    assert 0 < found.timing.min_ms <= found.timing.median_ms <= found.timing.max_ms
    assert found.tflop == pytest.approx(2 * (2 * 64) * 8 * 8 / 1e12)
    assert report(found).share(found) == pytest.approx(found.tflop / found.timing.median_ms * 1000 / 100)


def test_a_case_that_would_pass_the_time_is_skipped_and_says_so():
    now_s = 100.0
    budget = Budget.of_minutes(0.5, clock=lambda: now_s)
    case = Case(tiny(), EAGER, 64, 1)
    assert not budget.lacks(foreseen_s(case, 100.0))

    now_s = 129.0
    found = measured(case, report(), Bench(torch.device("cpu")), budget)

    assert (found.timing, found.skipped) == (None, "no time: about 2 s of 1 s left")


def test_a_case_that_does_not_fit_or_is_not_there_is_skipped_and_says_so():
    bench, budget = Bench(torch.device("cpu")), Budget.of_minutes(60)

    greedy = measured(Case(tiny(Greedy), EAGER, 64, 1), report(), bench, budget)
    engine = measured(Case(tiny(), "TensorRT, CUDA graphs", 64, 1), report(), bench, budget)

    uncompiled = measured(
        Case(tiny(), "torch.compile, CUDA graphs", 64, 1), report(), Bench(torch.device("cpu"), None, "no gcc"), budget
    )

    assert uncompiled.skipped == "no gcc"
    assert greedy.skipped == "does not fit into the device's memory"
    assert engine.skipped == "TensorRT does not run here"


def test_a_case_that_fails_leaves_the_others():
    case = Case(tiny(Broken), EAGER, 64, 1)

    found = measured(case, report(), Bench(torch.device("cpu")), Budget.of_minutes(60))

    assert found.skipped == "failed: no kernel for this"


@pytest.mark.parametrize(("records", "way"), [(True, "CUDA graphs"), (False, "eager")])
def test_a_network_that_could_not_be_recorded_is_not_told_as_a_graph(records: bool, way: str):
    def graphs(_: str, run: Recordable, __: torch.device) -> Recordable:
        kept: list[tuple[Tensor, ...]] = []

        def called(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            if not (records and kept):
                kept.append(run(inputs))
            return kept[-1]

        return called

    bench = Bench(torch.device("cpu"), graphs=graphs)
    found = measured(Case(tiny(), "CUDA graphs", 64, 1), report(), bench, Budget.of_minutes(60))

    assert (found.way, found.skipped) == (way, "")


def test_more_work_is_foreseen_to_take_longer():
    _, _, _, unet = networks()
    eager = [foreseen_s(Case(unet, EAGER, 512, batch), 700.0) for batch in (1, 8)]
    engine = foreseen_s(Case(unet, "TensorRT, CUDA graphs", 512, 1), 700.0)

    assert eager[0] < eager[1] < engine


@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        ([], ["not measured", "not measured"]),
        ([row(1024, 20.0), row(1024, 13.0), row(512, 20.0)], ["0.77, reached", "0.50, missed"]),
        ([replace(row(1024, 1.0), timing=None, skipped="no time")], ["not measured", "not measured"]),
    ],
)
def test_a_goal_is_reached_missed_or_not_measured(rows: list[Row], ends: list[str]):
    assert [said.split("; ")[1] for said in verdicts(report(*rows))] == ends


def test_the_table_tells_times_rates_and_what_was_skipped():
    skipped = Row("other", "eager", 512, 8, 2.0, skipped="does not fit")

    lines = markdown(report(row(1024, 20.0, tflop=1.5), skipped)).splitlines()

    assert "- ceiling, the product of two large bfloat16 matrices: 100 TFLOP/s (83 to 111)" in lines
    expected = f"| {DENOISER} | CUDA graphs | 1024 | 1 | 20.00 | 20.00 to 20.00 | 1.50 | 75 | 0.75 | 3.0 |"
    assert expected in lines
    assert "| other | eager | 512 | 8 | does not fit |  | 2.00 |  |  |  |" in lines


def test_a_network_becomes_a_plan_for_a_gpu_that_the_library_knows_and_says_where_it_does_not(tmp_path: Path):
    trt = pytest.importorskip("tensorrt_rtx", reason="it alone builds without a GPU")
    pytest.importorskip("onnxscript")
    half = Tiny().to(torch.bfloat16).eval()
    spec = replace(
        TINY,
        inputs=(replace(TINY.inputs[0], dtype="bfloat16"),),
        outputs=(replace(TINY.outputs[0], dtype="bfloat16"),),
    )
    plan = tmp_path / "tiny.plan"

    shapes = write_plan(Library(trt, "sm_89", ""), spec, half, {"batch": 2, "tokens": 64}, plan)

    assert shapes.static == ({"batch": 2, "tokens": 64},)
    assert plan.stat().st_size > 0
    with pytest.raises(NotThere, match="tensorrt_rtx cannot build for sm_90; it builds for SM"):
        write_plan(Library(trt, "sm_90", ""), spec, half, {"batch": 2, "tokens": 64}, plan)


def test_every_network_that_runs_on_tensorrt_has_lengths_to_be_exported_with():
    for case in cases():
        if case.way == "TensorRT, CUDA graphs":
            names = {axis.name for axis in case.network.spec.axes} - {"batch"}
            assert example_lengths(case.network.spec).keys() == names


def test_both_files_are_written_with_what_follows_from_the_figures(tmp_path: Path):
    write(report(row(1024, 20.0)), tmp_path / "out")

    content = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert content["ceiling_tflop_per_s"] == pytest.approx(100.0)
    assert content["rows"][0]["share"] == pytest.approx(0.5)
    assert content["rows"][0]["timing"]["repeats"] == 1
    assert len(content["goals"]) == len(GOALS)
    assert (tmp_path / "out" / "gpu.md").read_text().startswith("# On one GPU\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_the_command_ends_with_one_sentence():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.strip() == "benchmarks.gpu needs a CUDA device, and torch finds none here"


def test_the_command_needs_no_settings_server_or_exporter():
    code = "import sys, benchmarks.gpu; print([name for name in sys.argv[1:] if name in sys.modules])"
    absent = ["pydantic", "pydantic_settings", "ray", "onnx"]

    done = subprocess.run([sys.executable, "-c", code, *absent], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
