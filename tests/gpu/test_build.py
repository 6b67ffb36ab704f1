"""`retouch build-engines` on a GPU: plans for it, run and compared before they are taken."""

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="plans are built from ONNX graphs")
pytest.importorskip("diffusers", reason="the models are of its classes")

from build_engines.build import Wish
from build_engines.parts import loaded
from build_engines.tensorrt import target_of
from serve.errors import ConfigurationError
from tests.contract.engines import SIZES, build, small_model
from tests.gpu import on_a_gpu

pytestmark = on_a_gpu


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("family", ["pixel_edit", "flux_kontext"])
def test_a_build_runs_its_plans_here_and_compares_them_with_torch(family: str, precision: str, tmp_path: Path):
    """At the size that they are tuned for as well, by a CUDA graph. The server takes what was built."""
    settings = {"backend": "tensorrt", "precision": precision, "device": "cuda:0", "num_gpus": 1}
    model = small_model(family, tmp_path, **settings)
    wish = Wish(sizes=SIZES, batches=(1, 2))
    try:
        target_of("")
    except ConfigurationError as error:
        pytest.skip(str(error))

    made = build(model, wish)

    for one in made.values():
        assert isinstance(one.manifest.errors, dict)
        assert all(error.measured <= error.tolerated for error in one.manifest.errors.values())
        assert one.manifest.architecture == target_of("")
    assert all(one.fresh for one in build(model, wish).values())
    assert set(loaded(model).components) == set(made)
