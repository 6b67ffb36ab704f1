"""A component that computes in another precision than its model's tensors have."""

from dataclasses import replace
from itertools import permutations

import pytest

from benchmarks.real_models import kontext_dimensions
from serve.backends.mixed import with_precision
from serve.families.flux_kontext_components import specs
from serve.types import DType

PRECISIONS: tuple[DType, ...] = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(("model", "component"), list(permutations(PRECISIONS, 2)))
def test_a_component_in_another_precision_is_declared_as_where_the_whole_model_has_it(model: DType, component: DType):
    """Else no engine would fit: they are built from the declaration of the whole model. FLUX.1 takes its guidance and
    its rotary embedding in float32 always."""
    here = kontext_dimensions(model)
    wanted = specs(replace(here, dtype=component))

    assert tuple(with_precision(spec, model, component) for spec in specs(here)) == wanted
