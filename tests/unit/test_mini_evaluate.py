"""The evaluation of the embedded model: who does what is asked scores all, who does nothing scores nothing."""

import base64
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from embedded_model.mini.edits import apply
from embedded_model.mini.evaluation.candidates import (
    ALTERNATIVES,
    Judgement,
    edits_of_the_scene,
    judged,
    other_object_edits,
)
from embedded_model.mini.evaluation.cases import OBJECTS, SAME_DB, Case, cases_of, described_object
from embedded_model.mini.evaluation.command import evaluate
from embedded_model.mini.evaluation.editor import HttpEditor, Request, as_png, as_tensor
from embedded_model.mini.evaluation.evaluate import SWEEPS, Outcome, answers
from embedded_model.mini.evaluation.features import EfficientNetLite0, prepared, similarity
from embedded_model.mini.evaluation.gallery import draw_gallery
from embedded_model.mini.evaluation.report import Report, Run, as_markdown, report_of
from embedded_model.mini.evaluation.scores import MAX_PSNR_DB, is_at, psnr_db
from embedded_model.mini.filters import blur
from embedded_model.mini.flow import MAX_GUIDANCE, guided
from embedded_model.mini.pairs import GROUPS
from embedded_model.mini.scenes import PLACES
from embedded_model.mini.tones import EXAGGERATED
from serve.client import Refused
from tests.unit.peer import Answer, listening, refusal

SIDE_PX = 96
ROWS = 4
CHANGING = tuple(name for name in GROUPS if name != "identity")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Pictures this small are waited for longer than they are worked on by several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Editor:
    """Knows the cases, and gives a picture of its own choice for each."""

    def __init__(self, cases: Sequence[Case], choose: Callable[[Case], Tensor]) -> None:
        self._cases, self._choose = cases, choose
        self.asked: list[Request] = []

    def edit(self, request: Request) -> Tensor:
        self.asked.append(request)
        (case,) = (c for c in self._cases if c.request.source is request.source)
        return (self._choose(case) * 255).round() / 255


def perfect(case: Case) -> Tensor:
    return case.target


def idle(case: Case) -> Tensor:
    return case.request.source


def misplacing(case: Case) -> Tensor:
    """The edit of the scene that differs from what is asked in its place alone."""
    assert case.scene is not None
    edit = case.scene.edit
    assert edit.result is not None
    wrong = next(
        str(other)
        for other in other_object_edits(edit)
        if other.result
        and other.subject is edit.subject
        and replace(other.result, place=edit.result.place) == edit.result
    )
    return dict(edits_of_the_scene(case))[wrong]


@cache
def photographs() -> Tensor:
    """Six pictures of smooth colours with a little texture, (6, 3, SIDE_PX, SIDE_PX)."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    smooth = [Image.fromarray(c).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC) for c in corners]
    textured = torch.stack([as_tensor(picture) for picture in smooth])
    noise = torch.from_numpy(generator.normal(0, 0.04, textured.shape).astype(np.float32))
    return (textured + noise).clamp(0, 1)


@cache
def cases(group: str, rows: int = ROWS) -> list[Case]:
    return cases_of(group, GROUPS[group], photographs(), rows, seed=0)


def outcomes(group: str, choose: Callable[[Case], Tensor]) -> list[Outcome]:
    return [a.outcome for a in answers(Editor(cases(group), choose), cases(group), None)]


def placed_objects(rows: int) -> list[Case]:
    return [case for case in cases("objects", rows) if case.placed is not None]


@pytest.mark.parametrize("group", GROUPS)
def test_whoever_does_what_is_asked_is_always_right(group: str):
    for outcome in outcomes(group, perfect):
        assert outcome.right, outcome
        assert outcome.psnr_db == MAX_PSNR_DB
        assert outcome.outside_db in (MAX_PSNR_DB, None)
        assert outcome.placed in (True, None)
        assert outcome.exact_outside in (True, None)
        assert outcome.alternatives >= 5


@pytest.mark.parametrize("group", CHANGING)
def test_whoever_returns_the_source_is_never_right(group: str):
    for outcome in outcomes(group, idle):
        assert not outcome.right, outcome
        assert outcome.nearest == "identity"
        assert outcome.psnr_db < SAME_DB
        assert outcome.placed in (False, None)
        assert outcome.outside_db in (MAX_PSNR_DB, None)


def test_returning_the_source_is_right_where_nothing_is_to_be_done():
    assert all(outcome.right and outcome.psnr_db == MAX_PSNR_DB for outcome in outcomes("identity", idle))


def test_an_object_in_the_wrong_place_does_not_obey():
    wrong = placed_objects(12)
    assert len(wrong) >= 4
    for answer in answers(Editor(wrong, misplacing), wrong, None):
        assert answer.outcome.placed is False
        assert not answer.outcome.right
        assert answer.outcome.nearest.rsplit(maxsplit=1)[0] != "identity"


def test_a_change_all_over_the_picture_is_at_no_place():
    shown = placed_objects(12)
    answered = answers(Editor(shown, lambda case: case.request.source.flip(0)), shown, None)
    assert sum(bool(answer.outcome.placed) for answer in answered) <= len(shown) // 3


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_found_by_its_name(place: str):
    source = torch.zeros(3, 90, 90)
    target, faint = source.clone(), source.clone()
    row, column = divmod(PLACES.index(place), 3)
    target[:, 30 * row : 30 * row + 20, 30 * column : 30 * column + 20] = 1
    faint[target > 0] = 0.2
    assert is_at(place, source, target, target)
    assert not is_at(place, source, target, faint)
    assert not is_at(place, source, target, target.roll(30, dims=2))


def test_what_moved_may_leave_more_behind_than_it_covers():
    source, target = torch.zeros(3, 90, 90), torch.zeros(3, 90, 90)
    target[:, :20, :20], target[:, 70:, 70:] = 0.5, 1
    assert is_at("top left", source, target, target, left="bottom right")
    assert not is_at("top left", source, target, target)


def test_the_same_seed_asks_the_same_and_another_asks_other_things():
    once, again, other = (cases_of("objects", GROUPS["objects"], photographs(), 3, seed) for seed in (5, 5, 6))
    assert [c.request.prompt for c in once] == [c.request.prompt for c in again]
    assert all(torch.equal(a.request.source, b.request.source) for a, b in zip(once, again, strict=True))
    assert [c.request.prompt for c in once] != [c.request.prompt for c in other]


def test_no_edit_is_asked_for_that_cannot_be_seen():
    grey = photographs().mean(dim=1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    asked = cases_of("tones", GROUPS["tones"], grey, 30, seed=0)
    assert "darker" in {case.edit for case in asked}
    assert all(psnr_db(case.request.source, case.target) < SAME_DB for case in asked)


def test_every_object_is_found_by_its_description():
    assert all(described_object(str(thing)) == thing for thing in OBJECTS.values())
    with pytest.raises(ValueError, match="'a cat at left' is no object"):
        described_object("a cat at left")


def test_other_edits_of_a_scene_are_many_distinct_and_not_what_is_asked():
    for case in cases("objects", 12):
        assert case.scene is not None
        edit = case.scene.edit
        others = [frozenset(other.after) for other in other_object_edits(edit)]
        assert len(set(others)) == len(others)
        assert frozenset(edit.after) not in others
        least = {"remove": 19, "recolour": 29, "add": 19, "move": 19, "replace": 29}[edit.verb]
        assert len(others) >= least, edit


def test_an_output_between_two_targets_is_judged_by_the_nearer():
    (case, *_) = cases("tones")
    name, other = next((n, p) for n, p in ALTERNATIVES["tones"](case) if psnr_db(p, case.target) < 15)
    nearly, hardly = (torch.lerp(case.target, other, share) for share in (0.1, 0.9))
    right, wrong = judged(case, [nearly, hardly])
    assert right.right
    assert wrong == Judgement(name, False, right.alternatives)


def test_what_the_mask_keeps_must_be_the_source_bit_for_bit():
    def leaking(case: Case) -> Tensor:
        assert case.request.mask is not None
        row, column = (int(i) for i in (case.request.mask[0] == 0).nonzero()[0])
        output = case.target.clone()
        output[0, row, column] = (case.request.source[0, row, column] + 1 / 255) % 1
        return output

    for outcome in outcomes("masked", leaking):
        assert outcome.exact_outside is False
        assert outcome.right


def test_each_field_is_swept_on_the_first_rows_of_a_group():
    editor = Editor(cases("tones"), perfect)
    swept = [sweep for answer in answers(editor, cases("tones"), None) for sweep in answer.sweeps]
    assert [s.field for s in swept] == ["num_inference_steps", "guidance_scale", "strength", "guidance_scale"]
    settings = [request.settings for request in editor.asked if request.settings]
    first = [{field: value} for field, values in SWEEPS.items() for value in values]
    assert settings == first + [{"guidance_scale": value} for value in SWEEPS["guidance_scale"]]
    assert all(s.agreement_db == MAX_PSNR_DB and all(s.right) for s in swept)


def test_content_is_compared_with_the_source_and_another_photograph():
    def brightness(picture: Tensor) -> Tensor:
        return torch.stack([picture.mean(), torch.tensor(1.0)])

    shown = cases("styles")
    for answer in answers(Editor(shown, idle), shown, brightness):
        content = answer.outcome.content
        assert content is not None
        assert content.output == pytest.approx(1)
        source, target = brightness(answer.case.request.source), brightness(answer.case.target)
        assert content.target == pytest.approx(similarity(source, target))


def test_the_report_counts_what_was_right_and_names_what_was_not():
    rows = [*outcomes("tones", perfect)[:3], *outcomes("tones", idle)[3:], *outcomes("identity", idle)]
    report = report_of(Run("tiny", 0, SIDE_PX, 6), rows, [], [30.0, 40.0])
    tones = report.groups["tones"]
    assert (tones.rows, tones.right) == (ROWS, 0.75)
    assert tones.mistaken_for == {"identity": 1}
    assert report.right == pytest.approx((0.75 + 1) / 2)
    assert report.round_trip_db == (35, 30)
    written = as_markdown(report)
    assert "| right edit, tones and colours | 90 % | 75.0 % |" in written
    assert "| autoencoder round trip, PSNR | 31 dB | 35.0 dB, at least 30.0 |" in written
    assert "| 8 steps beside 28, PSNR | 30 dB | not measured |" in written


def test_an_evaluation_leaves_a_report_and_a_sheet_of_each_group(tmp_path: Path):
    groups = ("repairs", "two_images")
    known = [case for group in groups for case in cases(group, 2)]
    report = _evaluated(known, groups, tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["groups"]["repairs"]["right"] == 1
    assert len(told["outcomes"]) == len(report.outcomes) == 4
    assert math.isclose(told["run"]["side_px"], SIDE_PX)
    assert (tmp_path / "report.md").read_text() == as_markdown(report)
    for group, pictures in (("repairs", 4), ("two_images", 4)):
        with Image.open(tmp_path / f"{group}.jpg") as sheet:
            assert sheet.width > pictures * 170


def _evaluated(known: Sequence[Case], groups: Sequence[str], out: Path) -> Report:
    class ByPrompt(Editor):
        def edit(self, request: Request) -> Tensor:
            (case,) = (c for c in known if torch.equal(c.request.source, request.source))
            return (case.target * 255).round() / 255

    run = Run("tiny", 0, SIDE_PX, len(photographs()))
    return evaluate(ByPrompt(known, perfect), photographs(), run, groups, 2, None, None, out)


def test_a_request_goes_to_the_api_as_it_documents():
    picture, reference = (torch.full((3, 256, 256), level / 255) for level in (7, 9))
    mask = torch.zeros(1, 256, 256)
    mask[:, :9] = 1
    reply = {"data": [{"b64_json": base64.b64encode(as_png(reference)).decode()}]}
    with listening(Answer(reply)) as peer:
        request = Request(picture, "make it warmer", 5, reference, mask, {"strength": 0.3})
        output = HttpEditor(peer.url, "tiny").edit(request)
    assert torch.equal(output, reference)
    asked = peer.asked[0]
    assert (asked.method, asked.path) == ("POST", "/v1/images/edits")
    body = asked.json
    images = [as_tensor(Image.open(io.BytesIO(base64.b64decode(image)))) for image in body.pop("images")]
    assert torch.equal(torch.stack(images), torch.stack([picture, reference]))
    assert torch.equal(as_tensor(Image.open(io.BytesIO(base64.b64decode(body.pop("mask")))))[:1], mask)
    assert body == {
        "prompt": "make it warmer",
        "model": "tiny",
        "size": "256x256",
        "seed": 5,
        "strength": 0.3,
        "response_format": "b64_json",
    }


def test_a_refusal_of_the_server_ends_the_evaluation_with_its_message():
    with listening(refusal(400, "images: takes one image")) as peer, pytest.raises(Refused, match="takes one image"):
        HttpEditor(peer.url, "tiny").edit(Request(torch.zeros(3, 256, 256), "make it warmer", 0))


def test_the_gallery_asks_for_twelve_edits_and_shows_them(tmp_path: Path):
    class Recording:
        def __init__(self) -> None:
            self.asked: list[Request] = []

        def edit(self, request: Request) -> Tensor:
            self.asked.append(request)
            return 1 - request.source

    editor = Recording()
    draw_gallery(editor, tmp_path / "edits.jpg")
    assert len(editor.asked) == 12
    assert sum(request.mask is not None for request in editor.asked) == 2
    assert sum(request.reference is not None for request in editor.asked) == 2
    with Image.open(tmp_path / "edits.jpg") as sheet:
        assert sheet.width > sheet.height > 700


def test_the_network_of_features_has_the_shape_of_efficientnet_lite0():
    network = EfficientNetLite0().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    with torch.no_grad():
        features = network.features(prepared(photographs()[:1]))
    assert features.shape == (1, 1280)


def test_a_hole_that_is_filled_as_it_might_have_been_is_right():
    """The fine detail of what was there, nobody can know."""
    for case in cases("repairs"):
        soft = blur(case.target[None], 2.0)[0]
        assert judged(case, [soft])[0].right, case.edit
        assert not judged(case, [case.request.source])[0].right


@pytest.mark.parametrize("edit", sorted(EXAGGERATED))
def test_an_exaggerated_edit_is_still_taken_for_itself(edit: str):
    case = replace(cases("tones")[0], edit=edit)
    source = case.request.source
    case = replace(case, target=apply(source[None], [edit])[0])
    more = guided(source[None], case.target[None], torch.tensor([MAX_GUIDANCE]))[0]

    assert judged(case, [more])[0].nearest == edit
