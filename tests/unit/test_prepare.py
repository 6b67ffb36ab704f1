"""From a body to a job, and from pictures to files: what is refused first, which sizes are drawn, how much is held."""

import io
import json
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve.errors import EditError, InvalidImage, MaskSizeMismatch, ModelNotFound, UnsupportedParameter
from serve.prepare import MAX_SEED, RANDOM_SEEDS, Origin, PreparedEdit, finish, prepare, read
from serve.settings import LimitSettings, Settings
from serve.types import ModelFacts, Pixels
from tests import pictures

FACTS = ModelFacts(
    default_steps=8,
    default_strength=0.75,
    default_guidance=2.5,
    has_guidance=True,
    max_images=10,
    reference_pixels=64 * 64,
    draw_min=512,
    draw_max=1536,
    multiple=16,
)
MODEL = Settings().models[0].id
BROKEN = "no base64 at all!"


def prepared(facts: ModelFacts = FACTS, settings: Settings | None = None, **fields: Any) -> PreparedEdit:
    body = {"images": [png()], "prompt": "make it blue", **fields}
    return prepare(read(json.dumps(body).encode()), Origin("request"), settings or Settings(), {MODEL: facts})


def png(pixels: Pixels | None = None) -> str:
    file = io.BytesIO()
    Image.fromarray(pictures.photo((96, 64)) if pixels is None else pixels).save(file, "PNG")
    return pictures.base64_of(file.getvalue())


def flat(side: int, value: int) -> Pixels:
    return np.full((side, side, 3), value, np.uint8)


def refusal(facts: ModelFacts = FACTS, settings: Settings | None = None, **fields: Any) -> EditError:
    with pytest.raises(EditError) as refused:
        prepared(facts, settings, **fields)
    return refused.value


# Refusals


def test_a_model_that_is_not_served_is_named_before_any_picture_is_decoded():
    error = refusal(model="x" * 5000, images=[BROKEN])
    assert (type(error), error.param) == (ModelNotFound, "model")
    assert len(error.message) < 300


def test_what_the_model_cannot_do_is_refused_before_any_picture_is_decoded():
    error = refusal(replace(FACTS, max_images=2), images=[BROKEN] * 3)
    assert (type(error), error.param) == (UnsupportedParameter, "images[2]")
    error = refusal(replace(FACTS, has_guidance=False), images=[BROKEN], guidance_scale=3.0)
    assert (type(error), error.param) == (UnsupportedParameter, "guidance_scale")


def test_photographs_are_taken_where_the_operator_allows_their_format():
    file = io.BytesIO()
    Image.fromarray(pictures.photo((96, 64))).save(file, "JPEG", quality=95)
    plain = pictures.base64_of(file.getvalue())
    link = {"image_url": f"data:image/jpeg;base64,{plain}"}
    assert refusal(images=[plain]).message == "images[0] is a JPEG; only PNG is accepted"
    settings = Settings(limits=LimitSettings(image_formats=("png", "jpeg")))
    edits = [prepared(settings=settings, images=[one, png()]) for one in (plain, link)]
    assert np.array_equal(edits[0].frame.canvas, edits[1].frame.canvas)
    assert np.abs(edits[0].frame.canvas.astype(int) - prepared().frame.canvas).mean() < 4
    assert refusal(settings=settings, mask=plain).message == "mask is a JPEG; only PNG is accepted"


def test_a_model_without_guidance_takes_its_own_value_for_it():
    edit = prepared(replace(FACTS, has_guidance=False), guidance_scale=2.5)
    assert edit.job is not None
    assert edit.job.guidance == 2.5


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("strength", [0, 1])
def test_every_picture_is_checked_and_the_broken_one_is_named(index: int, strength: int):
    images = [png(), png(), png()]
    images[index] = pictures.base64_of(pictures.truncated())
    error = refusal(images=images, strength=strength)
    assert (type(error), error.param) == (InvalidImage, f"images[{index}]")


def test_the_limits_hold_for_every_picture():
    settings = Settings(limits=LimitSettings(image_pixels=80 * 80))
    images = [png(flat(80, 0)), png(flat(81, 0))]
    error = refusal(settings=settings, images=images)
    assert (error.code, error.param) == ("too_many_pixels", "images[1]")


def test_a_mask_must_have_the_size_of_the_source():
    error = refusal(mask=png(flat(64, 255)))
    assert (type(error), error.param) == (MaskSizeMismatch, "mask")


# Jobs


def test_what_the_request_leaves_out_is_the_models():
    job = prepared().job
    assert job is not None
    assert (job.steps, job.strength, job.guidance) == (8, 0.75, 2.5)
    assert (job.request_id, job.prompt, job.mask, job.references) == ("request", "make it blue", None, ())
    assert job.priority == "normal"
    (seed,) = job.seeds
    assert 0 <= seed < RANDOM_SEEDS


def test_what_the_request_says_goes_first():
    job = prepared(num_inference_steps=3, strength=0.5, guidance_scale=0, seed=7, n=3).job
    assert job is not None
    assert (job.steps, job.strength, job.guidance, job.seeds) == (3, 0.5, 0.0, (7, 8, 9))


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
def test_a_job_has_the_priority_that_was_asked_for(priority: str):
    job = prepared(priority=priority).job
    assert job is not None
    assert job.priority == priority


def test_seeds_go_round_at_their_end():
    assert prepared(seed=-1, n=2).frame.seeds == (MAX_SEED - 1, 0)


def test_an_output_is_drawn_at_its_size_where_the_model_does_that_well():
    edit = prepared(size="512x512", mask=png(pictures.photo((96, 64))))
    assert edit.job is not None
    assert edit.frame.size == (512, 512)
    assert edit.job.canvas is edit.frame.canvas
    assert edit.job.mask is edit.frame.mask


def test_a_smaller_output_is_drawn_larger_from_the_source_itself():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255  # which an output of 256 pixels no longer shows
    mask = stripes[..., 0]
    edit = prepared(size="256x256", images=[png(stripes)], mask=png(mask))
    assert edit.job is not None
    assert (edit.frame.canvas.shape, edit.frame.mask is not None) == ((256, 256, 3), True)
    np.testing.assert_array_equal(edit.job.canvas, stripes)
    np.testing.assert_array_equal(edit.job.mask, mask)


def test_references_are_fitted_in_their_order():
    colours = (10, 200, 90)
    job = prepared(images=[png(), *(png(flat(200, colour)) for colour in colours)]).job
    assert job is not None
    assert [one.shape for one in job.references] == [(64, 64, 3)] * 3
    assert [int(one.mean()) for one in job.references] == list(colours)


def test_a_strength_of_zero_leaves_nothing_to_draw():
    edit = prepared(strength=0, n=2, size="512x512")
    assert edit.job is None
    files = finish(edit.frame, None)
    assert len(files) == 2
    for file in files:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), edit.frame.canvas)


def test_who_called_is_kept_for_the_log():
    assert prepared(user="ann", safety_identifier="b").caller == ("ann", "b")
    assert prepared().caller == (None, None)


def test_one_more_picture_is_never_held_at_its_full_size():
    """A flat picture of 3 MB is a body of 5 kB; fitted, it is 12 kB."""
    side = 1024
    one = png(flat(side, 50))

    def peak(count: int) -> int:
        tracemalloc.start()
        prepared(images=[one] * count, size="512x512")
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(2)
    assert peak(10) - peak(2) < side * side * 3 // 2
    assert peak(2) > side * side * 3


# Answers


def test_an_answer_is_the_drawn_picture_under_the_mask():
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 48:] = 255
    edit = prepared(mask=png(mask), size="512x512")
    drawn = flat(512, 77)
    (file,) = finish(edit.frame, [drawn])
    answer = np.asarray(Image.open(io.BytesIO(file)))
    assert edit.frame.mask is not None
    black, white = edit.frame.mask == 0, edit.frame.mask == 255
    assert black.any()
    assert white.any()
    np.testing.assert_array_equal(answer[black], edit.frame.canvas[black])
    np.testing.assert_array_equal(answer[white], drawn[white])


@pytest.mark.parametrize(("name", "found"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_an_answer_has_the_format_that_was_asked_for(name: str, found: str):
    edit = prepared(output_format=name, size="256x256")
    (file,) = finish(edit.frame, [flat(512, 9)])
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size) == (found, (256, 256))
