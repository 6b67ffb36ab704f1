"""Every sampling field does what the contract says, and each one changes the picture."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from serve.engine.engine import EngineStats
from tests import pictures
from tests.http.api import SOURCE, draw, drawing_request, pixels, post
from tests.http.conftest import ALIAS, KONTEXT, TINY

MODELS = (TINY, KONTEXT)
REFERENCES = [pictures.base64_of(pictures.rgb((16, 16), seed)) for seed in (1, 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"num_inference_steps": 3},
        {"strength": 0.5},
        {"guidance_scale": 4.0},
        {"prompt": "make the sky a warm sunset"},
        {"images": [pictures.base64_of(pictures.rgb((256, 256), seed=3))]},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("model", MODELS)
def test_each_field_changes_the_picture(http: httpx.Client, model: str, change: dict[str, Any]) -> None:
    fields = {"model": model, "num_inference_steps": 2, "guidance_scale": 1.5}
    assert draw(http, **fields) != draw(http, **{**fields, **change})


@pytest.mark.parametrize("model", MODELS)
def test_strength_0_answers_the_canvas_for_every_seed(http: httpx.Client, model: str) -> None:
    drawn = draw(http, model=model, strength=0.0, n=3)
    assert len(drawn) == 3
    for file in drawn:
        np.testing.assert_array_equal(pixels(file), pictures.photo((256, 256)))


@pytest.mark.parametrize(
    ("steps", "strength", "run"),
    [(1, 1, 1), (4, 1, 4), (4, 0.5, 2), (5, 0.5, 2), (3, 0.01, 1), (10, 0.25, 2), (7, 0, 0)],
)
@pytest.mark.parametrize("model", MODELS)
def test_a_strength_runs_its_part_of_the_steps(
    http: httpx.Client, engine_stats: Callable[[str], EngineStats], model: str, steps: int, strength: float, run: int
) -> None:
    before = engine_stats(model).row_steps
    draw(http, model=model, num_inference_steps=steps, strength=strength)
    assert engine_stats(model).row_steps - before == run


def test_a_low_strength_stays_nearer_to_the_source_than_a_high_one(http: httpx.Client) -> None:
    """A model with random weights leaves its source by as much as the noise that it starts from lets it."""
    source = pictures.photo((256, 256)).astype(int)
    far, near = (
        np.abs(pixels(draw(http, model=KONTEXT, num_inference_steps=10, strength=strength)[0]) - source).mean()
        for strength in (1.0, 0.1)
    )
    assert near < far


def test_the_defaults_are_the_models(http: httpx.Client) -> None:
    defaults = http.get(f"/v1/models/{KONTEXT}").json()["defaults"]
    silent = draw(http, model=KONTEXT, num_inference_steps=None, strength=None, guidance_scale=None)
    assert silent == draw(http, model=KONTEXT, **defaults)


def test_guidance_of_1_and_below_is_off_where_it_is_classifier_free(http: httpx.Client) -> None:
    """The files themselves differ: they tell the guidance."""
    drawn = {scale: pixels(draw(http, model=TINY, guidance_scale=scale)[0]) for scale in (1, 0.0, 0.99, 1.01)}
    np.testing.assert_array_equal(drawn[0.0], drawn[1])
    np.testing.assert_array_equal(drawn[0.99], drawn[1])
    assert not np.array_equal(drawn[1.01], drawn[1])


def test_references_and_their_order_change_the_picture(http: httpx.Client) -> None:
    one, two = REFERENCES
    drawn = [draw(http, model=KONTEXT, images=[SOURCE, *others])[0] for others in ([], [one], [one, two], [two, one])]
    assert len(set(drawn)) == len(drawn)


def test_ten_pictures_make_one_edit(http: httpx.Client) -> None:
    drawn = draw(http, model=KONTEXT, images=[SOURCE, *REFERENCES * 4, REFERENCES[0]])
    assert pixels(drawn[0]).shape == (256, 256, 3)


def test_n_10_draws_ten_pictures(http: httpx.Client) -> None:
    assert len(set(draw(http, n=10))) == 10


def test_an_answer_holds_what_the_contract_lists(http: httpx.Client) -> None:
    answer = post(http, drawing_request(model=ALIAS, n=2, seed=7)).json()
    assert set(answer) == {"created", "model", "size", "output_format", "data", "usage"}
    assert isinstance(answer["created"], int)
    assert (answer["model"], answer["size"], answer["output_format"]) == (TINY, "256x256", "png")
    assert [set(item) for item in answer["data"]] == [{"b64_json", "seed"}] * 2
    assert [item["seed"] for item in answer["data"]] == [7, 8]


@pytest.mark.parametrize("model", MODELS)
def test_usage_adds_up(http: httpx.Client, model: str) -> None:
    one, two = (post(http, drawing_request(model=model, n=n)).json()["usage"] for n in (1, 2))
    details = one["input_tokens_details"]
    assert details["text_tokens"] > 0
    assert details["image_tokens"] > 0
    assert one["input_tokens"] == details["text_tokens"] + details["image_tokens"]
    assert one["total_tokens"] == one["input_tokens"] + one["output_tokens"]
    assert two["output_tokens"] == 2 * one["output_tokens"]
    assert two["input_tokens"] == one["input_tokens"]


def test_an_edit_that_draws_nothing_uses_no_tokens(http: httpx.Client) -> None:
    usage = post(http, drawing_request(strength=0)).json()["usage"]
    nothing = {"text_tokens": 0, "image_tokens": 0}
    assert usage == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "input_tokens_details": nothing}


def test_a_prompt_that_is_too_long_for_the_model_is_answered_with_the_part_that_ran(http: httpx.Client) -> None:
    prompt = "make it look like night " * 20
    answer = post(http, drawing_request(model=TINY, prompt=prompt)).json()["data"][0]
    read = answer["revised_prompt"]
    assert read
    assert prompt.startswith(read)
    again = post(http, drawing_request(model=TINY, prompt=read)).json()["data"][0]
    assert again["b64_json"] == answer["b64_json"]
    assert "revised_prompt" not in again
