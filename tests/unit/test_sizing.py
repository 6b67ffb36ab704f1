"""The counts that the sizing guide is made of."""

from pathlib import Path

import pytest

from benchmarks.real_shapes import REAL_TEXT_TOKENS, REAL_TRANSFORMER
from benchmarks.sizing import SIDES, page, sizing

GUIDE = Path(__file__).parents[2] / "k8s" / "sizing.md"


@pytest.mark.parametrize("side", SIDES)
def test_a_steps_operations_are_those_of_its_matrices(side: int):
    """Of a token: in each block four products of the attention and the two of a feed-forward network four times as
    wide, twelve squares of the width in all; and each token meets every other one in two products."""
    blocks = REAL_TRANSFORMER["num_layers"] + REAL_TRANSFORMER["num_single_layers"]
    width = REAL_TRANSFORMER["num_attention_heads"] * REAL_TRANSFORMER["attention_head_dim"]
    tokens = 2 * (side // 16) ** 2 + REAL_TEXT_TOKENS
    expected = blocks * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width)
    assert sizing().denoiser.tflop[side] == pytest.approx(expected / 1e12, rel=0.01)


def test_the_models_are_as_large_as_their_makers_say():
    """12 billion parameters of the transformer, T5-XXL's encoder of 4.7 billion, CLIP-L's of 123 million."""
    found = {one.name: one.parameters for one in sizing().components}
    assert found["denoiser"] == pytest.approx(12e9, rel=0.01)
    assert found["text_encoder_2"] == pytest.approx(4.76e9, rel=0.01)
    assert found["text_encoder"] == pytest.approx(123e6, rel=0.01)


def test_twice_the_share_of_the_peak_draws_twice_the_edits():
    found = sizing()
    assert found.edits_per_hour(512, 1000, 0.4) == pytest.approx(2 * found.edits_per_hour(512, 1000, 0.2))
    assert found.edits_per_hour(512, 1000, 1.0) == pytest.approx(3600 * 1000 / found.edit_tflop(512))


def test_the_guide_tells_what_is_counted():
    assert page(sizing()) in GUIDE.read_text(encoding="utf-8")
