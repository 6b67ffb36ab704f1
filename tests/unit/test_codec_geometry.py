"""Sizes, covering and cutting."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serve.codec import (
    auto_size,
    cover,
    cover_mask,
    draw_size,
    fit_reference,
    largest_drawn,
    largest_read,
    square_reference,
)
from serve.families import FAMILIES
from serve.types import ModelFacts, Size
from tests import pictures

FACTS = [entry.facts for entry in FAMILIES.values()]
SMALL_MODEL = replace(FACTS[0], draw_min=500, draw_max=1000, multiple=64)
SIDES = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_a_cover_has_exactly_the_size_asked_for(width: int, height: int, to_width: int, to_height: int):
    pixels = pictures.photo((width, height))
    assert cover(pixels, (to_width, to_height)).shape == (to_height, to_width, 3)
    assert cover_mask(pixels[..., 0].copy(), (to_width, to_height)).shape == (to_height, to_width)


def test_a_picture_of_the_right_size_is_not_touched():
    pixels, mask = pictures.photo(), pictures.mask_array()
    assert cover(pixels, (64, 48)) is pixels
    assert cover_mask(mask, (64, 48)) is mask


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 60), st.integers(0, 40), st.booleans())
def test_a_picture_that_is_only_cut_keeps_its_pixels(side: int, excess: int, wide: bool):
    size = (side + excess, side) if wide else (side, side + excess)
    pixels = pictures.photo(size)
    cut = slice(excess // 2, excess // 2 + side)
    expected = pixels[:, cut] if wide else pixels[cut]
    np.testing.assert_array_equal(cover(pixels, (side, side)), expected)


@pytest.mark.parametrize(("size", "to"), [((96, 64), (32, 32)), ((40, 70), (80, 80)), ((100, 30), (64, 64))])
def test_a_cover_is_the_picture_scaled_then_cut_at_its_centre(size: Size, to: Size):
    pixels = pictures.photo(size)
    scale = max(to[0] / size[0], to[1] / size[1])
    scaled = Image.fromarray(pixels).resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.LANCZOS)
    left, top = (scaled.width - to[0]) // 2, (scaled.height - to[1]) // 2
    expected = np.asarray(scaled.crop((left, top, left + to[0], top + to[1])))
    # resampling the cut alone or the whole picture differs where rounding its size moved a sample point
    assert abs(cover(pixels, to).astype(int) - expected.astype(int)).mean() < 1.5


@settings(max_examples=100, deadline=None)
@given(st.integers(5, 90), st.integers(5, 90), st.integers(5, 90), st.integers(5, 90))
def test_what_lies_at_the_centre_stays_there(width: int, height: int, to_width: int, to_height: int):
    """A ramp along each axis: the middle value of the picture is the middle value of its cover, to a target pixel."""
    across = np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))
    covered = cover_mask(across, (to_width, to_height)).astype(float)
    scale = max(to_width / width, to_height / height)
    per_pixel = 255 / max(width - 1, 1) * max(1, 1 / scale)
    assert abs(covered.mean() - 127.5) <= per_pixel + 1


@settings(max_examples=100, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.integers(16, 200), st.integers(16, 200))
def test_a_hard_mask_stays_hard_away_from_its_edge(width: int, height: int, to_width: int, to_height: int):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    covered = cover_mask(mask, (to_width, to_height))
    scale = max(to_width / width, to_height / height)
    edge = to_width / 2 + (width // 2 - width / 2) * scale
    reach = max(1.0, scale) + 1.5  # bilinear: one source or one target pixel, and the cut's half pixel
    x = np.arange(to_width) + 0.5
    assert (covered[:, x < edge - reach] == 0).all()
    assert (covered[:, x > edge + reach] == 255).all()


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("output", [(256, 256), (512, 512), (1024, 1024)])
def test_the_contracts_sizes_are_drawn_as_they_are_or_at_the_models_smallest(facts: ModelFacts, output: Size):
    side = max(output[0], facts.draw_min)
    assert draw_size(output, facts) == (side, side)


def test_a_size_below_the_models_range_keeps_its_aspect():
    assert draw_size((320, 160), FACTS[0]) == (1024, 512)


def test_a_size_above_the_models_range_is_drawn_at_its_largest():
    assert draw_size((4000, 2000), SMALL_MODEL) == (960, 512)


@settings(max_examples=300)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([*FACTS, SMALL_MODEL]))
def test_an_auto_size_is_within_the_models_range_and_drawn_as_it_is(width: int, height: int, facts: ModelFacts):
    size = auto_size((width, height), facts)
    assert all(side % facts.multiple == 0 and facts.draw_min <= side <= facts.draw_max for side in size)
    assert draw_size(size, facts) == size
    assert (size[0] >= size[1]) == (width >= height) or size[0] == size[1]


@settings(max_examples=300)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from(FACTS))
def test_an_auto_size_keeps_the_aspect_that_the_range_can_hold(width: int, height: int, facts: ModelFacts):
    if max(width, height) / min(width, height) > facts.draw_max / facts.draw_min * 0.9:
        return
    drawn = auto_size((width, height), facts)
    drift = (drawn[0] / drawn[1]) / (width / height)
    assert abs(drift - 1) <= facts.multiple / min(drawn) * 1.01


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1024, 1024), (1024, 1024)),
        ((800, 608), (800, 608)),
        ((4000, 4000), (1024, 1024)),
        ((6000, 4000), (1248, 832)),
        ((4000, 6000), (832, 1248)),
        ((100, 100), (512, 512)),
        ((20_000, 10), (1568, 512)),
    ],
)
def test_auto_sizes_that_can_be_worked_out_by_hand(source: Size, expected: Size):
    assert auto_size(source, FAMILIES["flux_kontext"].facts) == expected


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([64 * 64, 128 * 128, 200 * 100]))
def test_a_reference_keeps_its_aspect_near_the_area_asked_for(width: int, height: int, area: int):
    fitted = fit_reference(pictures.photo((width, height)), area, 16)
    assert fitted.shape[0] % 16 == fitted.shape[1] % 16 == 0
    assert fitted.shape[0] * fitted.shape[1] <= area * 1.6
    if max(width, height) <= 2 * min(width, height) and width * height * 16 >= area:
        assert fitted.shape[0] * fitted.shape[1] >= area * 0.6
        assert abs(fitted.shape[1] / width - fitted.shape[0] / height) * min(width, height) <= 16


def test_a_tiny_reference_is_enlarged_fourfold_and_no_more():
    assert fit_reference(pictures.photo((32, 16)), 1024 * 1024, 16).shape == (64, 128, 3)


def test_a_long_strip_is_cut_to_the_area():
    assert fit_reference(pictures.photo((6000, 1)), 64 * 64, 16).shape == (16, 256, 3)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([*FACTS, SMALL_MODEL]))
def test_no_picture_is_drawn_higher_than_the_largest_of_its_width(width: int, height: int, facts: ModelFacts):
    drawn = auto_size((width, height), facts)
    assert drawn[1] <= dict(largest_drawn(facts))[drawn[0]]
    for side in (256, 512, 1024):
        assert draw_size((side, side), facts)[1] <= dict(largest_drawn(facts))[draw_size((side, side), facts)[0]]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 6000), st.sampled_from([2, 8, 16]))
def test_no_reference_is_read_higher_than_the_largest_of_its_width(width: int, height: int, area: int, multiple: int):
    facts = replace(SMALL_MODEL, reference_pixels=area, multiple=multiple)
    height, width = fit_reference(np.zeros((height, width, 3), np.uint8), area, multiple).shape[:2]
    assert height <= dict(largest_read(facts))[width]


@pytest.mark.parametrize("area", [1024 * 1024, 1000 * 1000, 4096])
def test_a_square_reference_is_read_as_a_square(area: int):
    side = math.isqrt(area) + 8
    height, width = fit_reference(np.zeros((side, side, 3), np.uint8), area, 16).shape[:2]
    assert square_reference(replace(SMALL_MODEL, reference_pixels=area, multiple=16)) == (width, height)


def test_the_largest_pictures_are_as_large_as_some_picture_gets():
    """1365 x 768 is 16:9 at the area of a square of 1024, which itself may have been 1016 x 1032 before rounding."""
    drawn, read = dict(largest_drawn(FACTS[0])), dict(largest_read(FACTS[0]))
    assert (drawn[1024], drawn[1360], drawn[512], drawn[1568]) == (1040, 768, 1568, 672)
    assert (read[2048], read[4096], read[256]) == (512, 256, 4096)
