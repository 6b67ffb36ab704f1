"""The features that compare what styles show, with the weights that their package ships (17 MB from the index)."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from embedded_model.data import unpacked_wheels
from embedded_model.mini.edits import apply
from embedded_model.mini.evaluation.editor import as_tensor
from embedded_model.mini.evaluation.features import PACKAGE, WEIGHTS, EfficientNetLite0, Features, prepared, similarity

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
ESPRESSO, MISSILE = 967, 657
"""Of ImageNet's classes."""


def example(name: str) -> Tensor:
    return as_tensor(ImageOps.fit(Image.open(EXAMPLES / name).convert("RGB"), (512, 512)))


def test_the_network_recognises_photographs_and_what_a_style_leaves_of_them(tmp_path: Path):
    coffee, rocket = example("coffee.png"), example("rocket.png")
    features = Features(tmp_path)
    network = EfficientNetLite0().eval()
    network.load_state_dict(torch.load(unpacked_wheels((PACKAGE,), (WEIGHTS,), tmp_path) / WEIGHTS, weights_only=True))
    with torch.no_grad():
        assert network(prepared(torch.stack([coffee, rocket]))).argmax(dim=1).tolist() == [ESPRESSO, MISSILE]
    cartoon = apply(coffee[None], ["cartoon"])[0]
    assert similarity(features(coffee), features(cartoon)) > 0.7
    assert similarity(features(coffee), features(rocket)) < 0.3
