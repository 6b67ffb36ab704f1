"""The build of a model's engines, component by component."""

from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import transformers

from build_engines import tensorrt
from build_engines.job import Built, Job, Target
from build_engines.parts import parts_of
from build_engines.profiles import refuse_pictures, tuned
from build_engines.triton_config import Platform
from serve.backends import component_settings
from serve.backends.manifest import ANY_MACHINE, ENGINE_FILES, CompiledBackend, behind_triton
from serve.backends.onnxruntime import refuse_precision
from serve.backends.shapes import Asked, Shapes
from serve.errors import ConfigurationError
from serve.families import check_components, components_of, facts_of
from serve.families.base import Family
from serve.settings import ModelSettings, Precision
from serve.types import ComponentSpec, Size

PLATFORMS: dict[CompiledBackend, Platform] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt_plan",
}

Report = Callable[[str, str, float | None], None]
"""Is told a component, what is being done to it, and how much of that is, 0 to 1, where it is known."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to build; what is empty is as the model's settings have it.

    components: by name; empty is all that run on compiled engines. sizes: (width, height) of the pictures drawn that a
    plan is tuned for. references: counts of pictures read beside the one drawn, likewise, of which a plan takes no more
    than the largest; empty is none and one. batches: of the denoiser, likewise. architecture: of the GPU that a plan is
    for, as `sm_89`; empty is this machine's. python: for a Triton server that has its Python backend alone.
    """

    components: tuple[str, ...] = ()
    backend: CompiledBackend | None = None
    precision: Precision | None = None
    sizes: tuple[Size, ...] = ((1024, 1024), (512, 512))
    references: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    architecture: str = ""
    python: bool = False


def build_model(model: ModelSettings, wish: Wish, report: Report) -> list[Built]:
    """Build what is not up to date. An interrupted build leaves the engine that was there.

    All that can be told beforehand is refused before the first component is built. Raises ConfigurationError: the
    weights, a component, the precision, the backend, a size or the GPU is none, there is not enough disk or memory, or
    an engine does not compute what torch does.
    """
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    check_components(model, wish.components)
    names = wish.components or tuple(name for name in components_of(model) if _backend(model, name, wish))
    if not names:
        raise ConfigurationError(
            f"model {model.id} runs on {model.backend}, which needs no engines; name one of "
            f"{', '.join(ENGINE_FILES)} with --backend"
        )
    jobs = [_job(model, name, wish, report) for name in names]
    for job in jobs:
        job.check()
    return [job.run() for job in jobs]


def _backend(model: ModelSettings, component: str, wish: Wish) -> CompiledBackend | None:
    """None: it runs on what needs no engine."""
    own = component_settings(model, component)
    if wish.backend is None and own.backend == "triton":
        return behind_triton(own.device, wish.precision or own.precision)
    asked = wish.backend or own.backend
    return next((known for known in ENGINE_FILES if known == asked), None)


def _job(model: ModelSettings, component: str, wish: Wish, report: Report) -> Job:
    backend, precision = _asked(model, component, wish)
    family, parts = parts_of(model, "float32" if backend == "openvino" else precision)
    part, facts = parts[component], facts_of(model)
    if backend == "tensorrt":
        shapes, architecture = _shapes(model, part.spec, family, wish), tensorrt.target_of(wish.architecture)
    else:
        shapes, architecture = Shapes(), ANY_MACHINE
    unit = facts.multiple
    return Job(
        model=model,
        part=part,
        target=Target(backend, precision, "python" if wish.python else PLATFORMS[backend], architecture, shapes),
        lengths=(
            family.lengths((3 * unit, 3 * unit), ()),
            family.lengths((4 * unit, 6 * unit), ((6 * unit, 4 * unit),)),
        ),
        tell=lambda doing, share: report(component, doing, share),
    )


def _asked(model: ModelSettings, component: str, wish: Wish) -> tuple[CompiledBackend, Precision]:
    own = component_settings(model, component)
    backend, precision = _backend(model, component, wish), wish.precision or own.precision
    if backend is None:
        raise ConfigurationError(f"{component} of {model.id} runs on {own.backend}, which needs no engine")
    if backend == "onnxruntime":
        refuse_precision(precision)
    elif wish.python:
        raise ConfigurationError(f"--python is for the backend onnxruntime alone; {component} is built for {backend}")
    return backend, precision


def _shapes(model: ModelSettings, spec: ComponentSpec, family: Family, wish: Wish) -> Shapes:
    facts = facts_of(model)
    asked = Asked(
        sizes=wish.sizes,
        references=wish.references or ((0, 1) if facts.max_images > 1 else (0,)),
        batches=wish.batches or tuple(sorted({1, model.max_batch})),
    )
    refuse_pictures(model.id, facts, asked)
    return tuned(spec, family.lengths, facts, asked)
