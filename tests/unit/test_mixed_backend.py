"""A component that computes in another precision than its model's tensors have."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.real_models import kontext_dimensions
from serve.backends.base import Build
from serve.backends.mixed import MixedBackend, with_precision
from serve.families import flux_kontext, pixel_edit
from serve.families.flux_kontext_components import specs
from serve.types import ComponentSpec, DType
from tests import checkpoints
from tests.fake_backend import FakeBackend, FakeComponent

PRECISIONS: tuple[DType, ...] = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(("model", "component"), list(permutations(PRECISIONS, 2)))
def test_a_component_in_another_precision_is_declared_as_where_the_whole_model_has_it(model: DType, component: DType):
    """Else no engine would fit: they are built from the declaration of the whole model. FLUX.1 takes its guidance and
    its rotary embedding in float32 always."""
    here = kontext_dimensions(model)
    wanted = specs(replace(here, dtype=component))

    assert tuple(with_precision(spec, model, component) for spec in specs(here)) == wanted


@dataclass
class Watched(FakeBackend):
    """modules: that it was given, by component."""

    modules: dict[str, nn.Module] = field(default_factory=dict[str, nn.Module])

    def load(self, spec: ComponentSpec, module: Build, weights: Path | None = None) -> FakeComponent:
        self.modules[spec.name] = module(self.dtype)
        return super().load(spec, lambda _: self.modules[spec.name], weights)


@pytest.mark.parametrize(
    ("family", "checkpoint", "component", "file"),
    [
        (flux_kontext, checkpoints.flux_kontext, "vae_decoder", "vae/diffusion_pytorch_model"),
        (flux_kontext, checkpoints.flux_kontext, "text_encoder_2", "text_encoder_2/model"),
        (pixel_edit, checkpoints.pixel_edit, "text_encoder", "text_encoder/model"),
        (pixel_edit, checkpoints.pixel_edit, "denoiser", "denoiser/diffusion_pytorch_model"),
    ],
)
def test_a_component_of_a_higher_precision_computes_with_the_weights_of_the_checkpoint(
    tmp_path: Path, family: ModuleType, checkpoint: Callable[[Path], Path], component: str, file: str
):
    main, own = Watched(dtype=torch.bfloat16), Watched(dtype=torch.float32)

    family.load(str(checkpoint(tmp_path)), MixedBackend(main, {component: own}))

    stored = load_file(tmp_path / f"{file}.safetensors").values()
    (module,) = own.modules.values()
    assert all(any(torch.equal(weight, one) for one in stored) for weight in module.parameters())
    others = [weight.dtype for other in main.modules.values() for weight in other.parameters()]
    assert set(others) == {torch.bfloat16}
