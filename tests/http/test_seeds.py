"""A seed is a promise: the same request gives the same bytes, whatever else the server is doing."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serve.engine.engine import EngineStats
from tests import pictures
from tests.http.api import SOURCE, draw, drawing_request, files, post
from tests.http.conftest import KONTEXT, MAX_BATCH, TINY

MODELS = (TINY, KONTEXT)
OTHER_SOURCE = pictures.base64_of(pictures.rgb((192, 128), seed=5))
LARGEST = 2**64 - 1

COMPANY: tuple[dict[str, Any], ...] = (
    {"seed": 1, "prompt": "paint it blue", "num_inference_steps": 4},
    {"seed": 7, "images": [OTHER_SOURCE], "num_inference_steps": 3},
    {"seed": 7, "guidance_scale": 3.5, "num_inference_steps": 2},
    {"seed": 9, "strength": 0.5, "num_inference_steps": 5},
    {"seed": 7, "mask": pictures.base64_of(pictures.mask((256, 256)))},
    {"seed": 11, "n": 2},
)
"""Edits of all kinds that share steps with the one that is watched."""


@pytest.mark.parametrize("model", MODELS)
def test_the_same_request_gives_the_same_bytes_again(http: httpx.Client, model: str) -> None:
    first = draw(http, model=model, num_inference_steps=2)
    assert draw(http, model=model, num_inference_steps=2) == first
    assert draw(http, model=model, num_inference_steps=2, seed=8) != first


@pytest.mark.parametrize("place", [0, 2, len(COMPANY)])
@pytest.mark.parametrize("model", MODELS)
def test_a_seed_gives_the_same_bytes_alone_and_in_company(
    http: httpx.Client, engine_stats: Callable[[str], EngineStats], model: str, place: int
) -> None:
    watched: dict[str, Any] = {"model": model, "num_inference_steps": 3}
    alone = draw(http, **watched)
    requests = [{"model": model, **fields} for fields in COMPANY]
    requests.insert(place, watched)
    before = engine_stats(model)
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda fields: draw(http, **fields), requests))
    after = engine_stats(model)
    assert answers[place] == alone
    if model == KONTEXT:
        assert after.row_steps - before.row_steps > after.steps - before.steps, "no step was shared"


@pytest.mark.parametrize("model", MODELS)
def test_image_i_of_n_has_the_bytes_of_seed_plus_i(http: httpx.Client, model: str) -> None:
    together = draw(http, model=model, n=MAX_BATCH, seed=40)
    alone = [draw(http, model=model, seed=40 + i) for i in range(MAX_BATCH)]
    assert [[one] for one in together] == alone
    assert len(set(together)) == MAX_BATCH


@pytest.mark.parametrize(
    ("seed", "used"),
    [
        (0, [0, 1]),
        (-1, [LARGEST, 0]),
        (LARGEST, [LARGEST, 0]),
        (-(2**63), [2**63, 2**63 + 1]),
        (-2, [LARGEST - 1, LARGEST]),
    ],
)
def test_seeds_wrap_around_at_64_bits(http: httpx.Client, seed: int, used: list[int]) -> None:
    response = post(http, drawing_request(seed=seed, n=2))
    assert [item["seed"] for item in response.json()["data"]] == used
    assert [[file] for file in files(response)] == [draw(http, seed=one) for one in used]


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_that_was_drawn_is_told_and_draws_the_same_again(http: httpx.Client, model: str) -> None:
    response = post(http, drawing_request(model=model, seed=None, n=2))
    seeds = [item["seed"] for item in response.json()["data"]]
    assert seeds[1] == seeds[0] + 1
    assert [draw(http, model=model, seed=seed) for seed in seeds] == [[file] for file in files(response)]


def test_a_drawn_seed_differs_each_time(http: httpx.Client) -> None:
    seeds = [post(http, drawing_request(seed=None)).json()["data"][0]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_an_alias_draws_the_same_as_the_id(http: httpx.Client) -> None:
    assert draw(http, model="acme/kontext") == draw(http, model=KONTEXT)
    assert draw(http, images=[SOURCE], model=None) == draw(http, model=TINY)


def test_what_does_not_concern_the_picture_does_not_change_it(http: httpx.Client) -> None:
    expected = draw(http)
    assert draw(http, user="somebody") == expected
    assert draw(http, safety_identifier="somebody") == expected
    assert draw(http, images=[{"image_url": f"data:image/png;base64,{SOURCE}"}]) == expected
