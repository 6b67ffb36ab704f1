"""The shapes that plans are built for: which profile takes a call, what is refused and how, and what a model needs."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.real_models import kontext_dimensions
from build_engines.profiles import ROOM, refuse_pictures, shapes_of, tuned
from serve.backends.shapes import Asked, Range, Shapes, limited, unbuilt
from serve.codec import auto_size, draw_size, fit_reference
from serve.errors import ConfigurationError
from serve.families import FAMILIES
from serve.families.flux_kontext_components import (
    denoiser_spec,
    specs,
    text_encoder_spec,
    vae_decoder_spec,
    vae_encoder_spec,
)
from serve.types import Axis, ComponentSpec, TensorSpec

SPEC = ComponentSpec(
    name="mixer",
    inputs=(TensorSpec("tokens", "float32", ("batch", "length", 8)),),
    outputs=(TensorSpec("mixed", "float32", ("batch", "length", 8)),),
    axes=(Axis("batch", 1, 1, 8), Axis("length", 2, 16, 64)),
)
SHAPES = Shapes(
    static=({"batch": 1, "length": 16}, {"batch": 4, "length": 16}, {"batch": 1, "length": 32}),
    ranges=(Range(low={"batch": 1, "length": 2}, high={"batch": 4, "length": 32}),),
)
FACTS = FAMILIES["flux_kontext"].facts
KONTEXT = kontext_dimensions("bfloat16")
ASKED = Asked(sizes=((1024, 1024), (512, 512)), references=(0, 1), batches=(1, 4))
TALL_OR_WIDE = Shapes(
    ranges=(
        Range(low={"batch": 1, "height": 1, "width": 1}, high={"batch": 1, "height": 64, "width": 16}),
        Range(low={"batch": 1, "height": 1, "width": 1}, high={"batch": 1, "height": 16, "width": 64}),
    )
)


@pytest.mark.parametrize(
    ("lengths", "profile"),
    [
        ({"batch": 1, "length": 16}, 0),
        ({"batch": 4, "length": 16}, 1),
        ({"batch": 1, "length": 32}, 2),
        ({"batch": 2, "length": 16}, 3),
        ({"batch": 4, "length": 32}, 3),
        ({"batch": 1, "length": 2}, 3),
        ({"batch": 1, "length": 33}, None),
        ({"batch": 5, "length": 16}, None),
        ({"batch": 1, "length": 1}, None),
    ],
)
def test_a_call_runs_with_the_profile_of_its_shape_or_that_of_a_range(lengths: dict[str, int], profile: int | None):
    assert SHAPES.profile(lengths | {"of_the_output": 3}) == profile


@pytest.mark.parametrize(("height", "width", "profile"), [(60, 16, 0), (16, 16, 0), (9, 40, 1), (17, 17, None)])
def test_the_first_range_that_takes_a_call_runs_it(height: int, width: int, profile: int | None):
    assert TALL_OR_WIDE.profile({"batch": 1, "height": height, "width": width}) == profile


def test_a_component_without_sizes_has_the_range_alone():
    shapes = shapes_of(text_encoder_spec(KONTEXT), [{}], [1, 4])

    assert [shapes.profile({"batch": batch}) for batch in (1, 4, 5)] == [0, 0, None]


def test_a_component_takes_no_more_rows_than_its_engine():
    (batch, length) = limited(SPEC, SHAPES.rows).axes

    assert (batch.max, length) == (4, SPEC.axes[1])
    assert limited(SPEC, None) == SPEC


def test_a_size_that_was_not_built_is_refused_with_what_was_and_the_command():
    error = unbuilt(SPEC, SHAPES, {"batch": 1, "length": 33}, lambda asked: "build it: make")

    assert error.param == "size"
    assert error.message == (
        "pictures of this size cannot be made: the engine of the mixer was built for length 2 to 32 (found 33); "
        "build it: make"
    )


@pytest.mark.parametrize(("built", "found"), [((0,), 1), ((0,), 3), ((0, 1), 2), ((0, 1), 9), ((2,), 3)])
def test_references_that_were_not_built_are_refused_with_the_command_that_adds_them(built: tuple[int, ...], found: int):
    spec, asked = denoiser_spec(KONTEXT), ASKED.model_copy(update={"references": built})
    shapes = tuned(spec, KONTEXT.lengths, FACTS, asked)
    lengths = {**KONTEXT.lengths((1024, 1024), ((1024, 1024),) * found), "batch": 1}

    error = unbuilt(spec, shapes, lengths, lambda asked: " ".join(asked.words()))

    assert error.param == "images"
    assert "reference_tokens 1 to " in error.message
    counts = ",".join(str(count) for count in (*built, found))
    assert error.message.endswith(f"--sizes 1024x1024,512x512 --references {counts} --batch 1,4")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6000), st.integers(1, 6000), st.lists(st.tuples(*[st.integers(1, 300)] * 2), max_size=1))
def test_a_plan_takes_whatever_the_model_draws_and_reads(width: int, height: int, reference: list[tuple[int, int]]):
    size = draw_size(auto_size((width, height), FACTS), FACTS)
    read = [
        (fitted.shape[1], fitted.shape[0])
        for one in reference
        for fitted in [fit_reference(np.zeros((*one, 3), np.uint8), FACTS.reference_pixels, FACTS.multiple)]
    ]
    for spec in (denoiser_spec(KONTEXT), vae_decoder_spec(KONTEXT)):
        assert _taken(spec, KONTEXT.lengths(size, read))
    for one in (size, *read):
        assert _taken(vae_encoder_spec(KONTEXT), KONTEXT.lengths(one, ()))


def test_a_range_is_not_much_larger_than_the_pictures_in_it():
    """A panorama's width by its height turned around would be 4096 x 4096 pixels, whose activations no kernel takes."""
    for spec in specs(KONTEXT):
        own = [axis.name for axis in spec.axes if not axis.of]
        for one in tuned(spec, KONTEXT.lengths, FACTS, ASKED).ranges:
            if "height" in own:
                assert one.high["height"] * one.high["width"] <= ROOM * 4096 * 272
                assert one.high["latent_height"] * 8 == one.high["height"]


def test_only_the_denoiser_is_built_for_batches():
    rows = {spec.name: tuned(spec, KONTEXT.lengths, FACTS, ASKED).rows for spec in specs(KONTEXT)}

    assert {name for name, most in rows.items() if most == 4} == {"denoiser"}
    assert {most for name, most in rows.items() if name != "denoiser"} == {1}


def test_every_size_count_and_batch_that_is_asked_for_has_a_profile_of_its_own():
    """A square reference is read at 1024 x 1024, whatever is drawn."""
    static = tuned(denoiser_spec(KONTEXT), KONTEXT.lengths, FACTS, ASKED).static

    assert [(each["tokens"], each["reference_tokens"], each["batch"]) for each in static] == [
        (tokens, tokens + read, batch) for tokens in (4096, 1024) for read in (0, 4096) for batch in (1, 4)
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sizes": ((1000, 1000),)}, "flux never draws 1000x1000: sides are 512 to 1568 pixels, multiples of 16, and "),
        ({"sizes": ((256, 256),)}, "flux never draws 256x256: "),
        ({"sizes": ((1024, 1000),)}, "flux never draws 1024x1000: "),
        ({"sizes": ((1024, 1024), (1568, 1568))}, "flux never draws 1568x1568: .* area is about 1024x1024 at most"),
        ({"references": (0, 10)}, "flux reads 9 references beside the picture at most; 10 are asked for"),
    ],
)
def test_what_a_model_never_draws_is_no_size_to_build_for(change: Mapping[str, object], said: str):
    with pytest.raises(ConfigurationError, match=said):
        refuse_pictures("flux", FACTS, ASKED.model_copy(update=dict(change)))


def test_a_model_without_references_takes_every_picture_that_it_draws():
    facts = FAMILIES["pixel_edit"].facts
    spec = replace(
        SPEC, name="denoiser", axes=(Axis("batch", 1, 1, 8), Axis("height", 4, 128, 384), Axis("width", 4, 128, 384))
    )
    asked = Asked(sizes=((512, 512),), references=(0,), batches=(1, 2))

    shapes = tuned(spec, lambda size, read: {"width": size[0] // 4, "height": size[1] // 4}, facts, asked)

    for width, height in (auto_size(source, facts) for source in ((16, 9), (9, 16), (1, 1), (2000, 300), (300, 2000))):
        assert shapes.profile({"batch": 2, "width": width // 4, "height": height // 4}) is not None


def _taken(spec: ComponentSpec, lengths: Mapping[str, int]) -> bool:
    return _tuned(spec).profile({**lengths, "batch": 1}) is not None


@cache
def _tuned(spec: ComponentSpec) -> Shapes:
    return tuned(spec, KONTEXT.lengths, FACTS, ASKED)
