"""Whether what was compiled computes what torch does."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from build_engines.inputs import random_inputs
from serve.backends.base import Component
from serve.backends.manifest import Error
from serve.errors import ConfigurationError
from serve.types import ComponentSpec

TOLERATED = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 6e-2}
"""Of the relative error, by the precision of the arithmetic. Kernels that sum in another order differ by so much over a
deep network; a wrong operator, a transposed weight or a frozen shape differs by about 1."""

CALLS = 2
"""With each reference: a plan answers by a CUDA graph from the second call on."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Inputs, and torch's answers to them by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def references(
    spec: ComponentSpec,
    module: nn.Module,
    lengths: Sequence[Mapping[str, int]],
    device: torch.device = torch.device("cpu"),  # noqa: B008  # It is immutable.
) -> list[Reference]:
    """torch's answers at several lengths of the axes, all on the CPU. device: where the module is."""
    made: list[Reference] = []
    with torch.inference_mode():
        for seed, each in enumerate(lengths):
            inputs = random_inputs(spec, each, seed)
            placed = {name: tensor.to(device) for name, tensor in inputs.items()}
            answer: Tensor | tuple[Tensor, ...] = module(**placed)
            answers = answer if isinstance(answer, tuple) else (answer,)
            names = [tensor.name for tensor in spec.outputs]
            made.append(Reference(inputs, dict(zip(names, (one.cpu() for one in answers), strict=True))))
    return made


def compare(
    component: Component, references: Sequence[Reference], precision: str, device: torch.device
) -> dict[str, Error]:
    """The largest relative error of each output. Raises ConfigurationError where one is above what is tolerated."""
    errors = {tensor.name: 0.0 for tensor in component.spec.outputs}
    for one in references:
        inputs = {name: tensor.to(device) for name, tensor in one.inputs.items()}
        for _ in range(CALLS):
            answers = component(inputs)
            for name, wanted in one.outputs.items():
                errors[name] = max(errors[name], relative_error(answers[name].cpu(), wanted))
    for name, found in errors.items():
        if not found <= TOLERATED[precision]:
            raise ConfigurationError(
                f"{component.spec.name} is not what torch computes: {name} is off by {found:.2g} in {precision}, "
                f"tolerated is {TOLERATED[precision]:g}"
            )
    return {name: Error(measured=found, tolerated=TOLERATED[precision]) for name, found in errors.items()}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of what is wanted. Infinite where one of them is not finite."""
    difference = (found.double() - wanted.double()).square().mean().sqrt()
    relative = (difference / wanted.double().square().mean().sqrt().clamp(min=1e-30)).item()
    return math.inf if math.isnan(relative) else relative
