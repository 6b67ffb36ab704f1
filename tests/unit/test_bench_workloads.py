"""Workloads, the plans made of them, their pictures, and trace files."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bodies import Shape
from benchmarks.errors import BenchError
from benchmarks.pictures import MaskKey, PictureKey, Pictures
from benchmarks.plan import MixedPlan
from benchmarks.trace import ignored, is_trace, read_plan, read_times
from benchmarks.workload import Kind, Workload, load, parse, shipped, steps_run
from serve.families.solvers import steps_to_run
from serve.schema import parse as parse_request

KB = 1000
"""Of the sizes that are told of photographs' files."""


def test_the_uniform_workload_has_the_mean_row_steps_of_the_mixed_one():
    assert load("uniform").mean_row_steps == load("mixed").mean_row_steps == 12.0


def test_the_mixed_workload_has_one_size_and_different_parameters():
    kinds = load("mixed").kinds
    assert {kind.size for kind in kinds} == {"512x512"}
    assert {kind.steps for kind in kinds} == {4, 8, 28, 50}
    assert len({kind.strength for kind in kinds}) > 1
    assert len({kind.guidance for kind in kinds}) > 1


@pytest.mark.parametrize("name", ["mixed", "production", "seed-sweep", "short-among-long", "uniform"])
def test_the_api_takes_every_kind_of_the_workloads_that_come_along(name: str):
    assert name in shipped()
    plan = MixedPlan(load(name))
    for kind in range(len(plan.kinds)):
        body = Shape().body(plan.rehearsal(kind, 0), plan.pictures)
        request = parse_request(b"".join(body.chunks))
        assert request.num_inference_steps == plan.workload.kinds[kind].steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nkinds: [{name: a, stepz: 3}]", r"unknown key kinds\[0\]\.stepz"),
        ("name: x\nkinds: [{name: a}]\nkind: 3", "unknown key kind$"),
        ("name: x\nkinds: [{name: a}, {name: b, steps: '3'}]", r"kinds\[1\]\.steps: .*integer \(found '3'\)"),
        ("name: x\nkinds: [{name: a, strength: 1.5}]", r"kinds\[0\]\.strength: .* \(found 1\.5\)"),
        ("name: x\nkinds: [{name: a, size: 5x}]", r"kinds\[0\]\.size"),
        ("name: x\nkinds: [{name: a, size: auto}]", r"kinds\[0\]: size auto needs picture"),
        ("name: x\nkinds: [{name: a, slo_scale: 2.0, deadline_s: 1.0}]", "exclude each other"),
        ("name: x\nkinds: [{name: a, extra: {prompt: b}}]", r"extra\.prompt"),
        ("name: x\nkinds: [{name: a, extra: {mode: [1]}}]", r"kinds\[0\]\.extra\.mode"),
        ("name: x\nkinds: [{name: a}, {name: a}]", "the name a is that of two kinds"),
        ("name: x\nkinds: []", "kinds: "),
        ("name: x", "the key kinds is missing"),
        ("name: x\nname: y", "the key name occurs twice"),
        ("- 1", "must be a mapping"),
        ("{", "no good YAML"),
    ],
)
def test_a_workload_that_is_wrong_is_refused_by_the_name_of_its_key(text: str, message: str):
    with pytest.raises(BenchError, match=message):
        parse(text, "a file")


def test_a_workload_that_is_not_there_tells_those_that_are():
    with pytest.raises(BenchError, match="mixed, production, seed-sweep"):
        load("mixt")


@pytest.mark.parametrize("steps", [1, 4, 28, 50, 100])
@pytest.mark.parametrize("strength", [0.01, 0.29, 0.3, 0.58, 0.75, 1.0])
def test_the_steps_of_a_strength_are_those_that_the_server_runs(steps: int, strength: float):
    assert steps_run(steps, strength) == steps_to_run(steps, strength)


def test_strength_0_runs_no_step_and_none_given_runs_all():
    assert (steps_run(28, 0.0), steps_run(28, None)) == (0, 28)


def test_every_block_of_requests_holds_each_kind_as_often_as_its_weight():
    plan = MixedPlan(load("mixed"), seed=5)
    blocks = [[plan.edit(index).kind for index in range(start, start + 20)] for start in (0, 20, 40)]
    for block in blocks:
        steps = Counter("-".join(kind.split("-")[:2]) for kind in block)
        assert steps == {"steps-4": 6, "steps-8": 8, "steps-28": 4, "steps-50": 2}
    assert len({tuple(block) for block in blocks}) == 3


def test_a_plan_gives_the_same_edit_whenever_it_is_asked():
    one, other = MixedPlan(load("mixed"), seed=5), MixedPlan(load("mixed"), seed=5)
    assert [one.edit(index) for index in (7, 3, 99)] == [other.edit(index) for index in (7, 3, 99)]
    assert one.edit(3) != MixedPlan(load("mixed"), seed=6).edit(3)


def plan_of(**fields: object) -> MixedPlan:
    return MixedPlan(Workload(name="x", kinds=[Kind.model_validate({"name": "a", **fields})]), seed=40)


def test_seeds_follow_their_rule():
    fixed, sweep, random = (plan_of(seed=rule, n=2) for rule in ("fixed", "sweep", "random"))
    assert [fixed.edit(index).fields["seed"] for index in range(3)] == [40, 40, 40]
    assert [sweep.edit(index).fields["seed"] for index in range(3)] == [40, 42, 44]
    assert len({random.edit(index).fields["seed"] for index in range(50)}) == 50


def test_sources_take_turns_and_a_rehearsal_has_others():
    plan = plan_of(sources=3, images=2)
    sources = [plan.edit(index).images for index in range(6)]
    assert len({image for images in sources for image in images}) == 6
    assert sources[:3] == sources[3:]
    assert not {image for images in sources for image in images} & set(plan.rehearsal(0, 1).images)
    assert set(plan.picture_keys()) == {image for images in sources for image in images}


def test_one_source_is_the_same_for_all():
    plan = plan_of(sources=1)
    assert plan.edit(0).images == plan.edit(17).images


@pytest.mark.parametrize("number", range(4))
def test_made_pictures_are_as_large_as_photographs(number: int):
    png = Pictures().encoded(PictureKey(512, 512, number)).png
    assert 100 * KB < len(png) < 400 * KB
    assert Image.open(io.BytesIO(png)).size == (512, 512)


def test_made_pictures_differ_by_number_and_seed_and_are_made_again_the_same():
    key = PictureKey(64, 48, 1)
    pngs = [pictures.encoded(key).png for pictures in (Pictures(0), Pictures(0), Pictures(1))]
    assert pngs[0] == pngs[1] != pngs[2]
    assert Pictures(0).encoded(PictureKey(64, 48, 2)).png != pngs[0]


def test_a_mask_edits_where_it_is_white_and_where_it_is_transparent():
    png = Pictures().encoded(MaskKey(8, 4, "half")).png
    red, _, _, alpha = np.moveaxis(np.asarray(Image.open(io.BytesIO(png))), 2, 0)
    assert (red[:, :4] == 255).all()
    assert (red[:, 4:] == 0).all()
    assert (alpha == 255 - red).all()


def test_own_pictures_are_fitted_in_size(tmp_path: Path):
    Image.new("RGB", (30, 10), "red").save(tmp_path / "a.jpg")
    png = Pictures.of_folder(tmp_path).encoded(PictureKey(16, 16, 3)).png
    assert Image.open(io.BytesIO(png)).size == (16, 16)
    with pytest.raises(BenchError, match="holds no PNG, JPEG or WebP"):
        Pictures.of_folder(tmp_path / "none")


TRACE = """
Request(request_id='r2', prompt='a # in "snow"', width=640, height=480, num_inference_steps=24, timestamp=12.5, fps=8)
Request(request_id='r1', prompt='tint it', width=512, height=512, num_inference_steps=20, timestamp=10, slo_ms=1500)
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.txt"
    path.write_text(text)
    return path


def test_a_trace_of_requests_is_sent_in_the_order_of_its_timestamps(tmp_path: Path):
    path = written(tmp_path, TRACE)
    assert is_trace(path)
    first, second = (plan := read_plan(path, seed=3)).edits
    assert plan.length == 2
    assert first.fields == {"prompt": "tint it", "n": 1, "size": "512x512", "num_inference_steps": 20, "seed": 3}
    assert first.slo.deadline_s == 1.5
    assert (second.fields["prompt"], second.fields["size"]) == ('a # in "snow"', "auto")
    assert (second.images[0].width, second.images[0].height, second.row_steps) == (640, 480, 24)
    assert plan.kinds == ["512x512, 20 steps", "640x480, 24 steps"]
    assert ignored(path) == ["fps", "request_id"]


def test_timestamps_count_from_the_earliest(tmp_path: Path):
    assert read_times(written(tmp_path, TRACE)) == (0.0, 2.5)


def test_a_file_of_seconds_is_arrivals_in_order_from_0(tmp_path: Path):
    assert read_times(written(tmp_path, "# seconds\n0.5\n3 # late\n\n1e0\n")) == (0.0, 0.5, 2.5)


def test_a_traces_own_pictures_are_sent(tmp_path: Path):
    Image.new("RGB", (20, 20), (0, 0, 250)).save(tmp_path / "blue.png")
    plan = read_plan(written(tmp_path, "Request(prompt='x', width=32, height=16, image_path='blue.png')"))
    sent = Image.open(io.BytesIO(plan.pictures.encoded(plan.edits[0].images[0]).png))
    assert sent.size == (32, 16)
    assert sent.getpixel((5, 5)) == (0, 0, 250)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("0.5\nsoon", "trace.txt:2: 'soon' is no time"),
        ("-1", "no time from 0 on"),
        ("Request(prompt='x')", "trace.txt:1 has no timestamp"),
        ("Request(timestamp='later')", "timestamp is 'later', not a number"),
        ("Request(timestamp=1)\nReply(2)", "trace.txt:2 does not read Request"),
        ("Request(timestamp=print(1))", r"does not read Request\(name=value"),
    ],
)
def test_a_trace_that_cannot_be_read_is_told_by_its_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(BenchError, match=message):
        read_times(written(tmp_path, text))


def test_a_traces_picture_that_is_missing_is_told(tmp_path: Path):
    with pytest.raises(BenchError, match=r"trace\.txt:1: there is no picture"):
        read_plan(written(tmp_path, "Request(image_paths=['gone.png'])"))
