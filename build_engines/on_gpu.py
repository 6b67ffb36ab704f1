"""Whether a plan computes on this machine's GPU what torch does: at small pictures, and at the size that it is tuned
for, where it runs with the profile and the CUDA graph that serve."""

import gc
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from build_engines import verify
from serve.backends.base import device_faults
from serve.backends.manifest import Error
from serve.backends.shapes import Shapes
from serve.backends.tensorrt import TensorRtBackend
from serve.backends.tensorrt_component import Unusable
from serve.errors import ConfigurationError, EditError
from serve.types import ComponentSpec

DEVICE = torch.device("cuda")


def references(spec: ComponentSpec, module: nn.Module, lengths: Sequence[Mapping[str, int]]) -> list[verify.Reference]:
    """torch's answers, computed on the GPU, which has its memory back at the end. Raises ConfigurationError."""
    try:
        with _faults(spec.name), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return verify.references(spec, module.to(DEVICE), lengths, DEVICE)
    finally:
        module.to("cpu")
        gc.collect()
        torch.cuda.empty_cache()


def compare(
    plan: Path, spec: ComponentSpec, shapes: Shapes, precision: str, wanted: Sequence[verify.Reference]
) -> dict[str, Error]:
    """As `verify.compare`. shapes: that the plan was built for. Raises ConfigurationError where it cannot run, too."""
    with _faults(spec.name):
        backend = TensorRtBackend(plan.parent, spec.name, str(DEVICE), precision)
        component = backend.opened(plan, spec, shapes, advice=lambda asked: "")
        return verify.compare(component, wanted, precision, backend.device)


@contextmanager
def _faults(component: str) -> Generator[None]:
    try:
        with device_faults(component):
            yield
    except (Unusable, EditError) as error:
        raise ConfigurationError(f"{component} cannot be compared with torch on this GPU: {error}") from error
