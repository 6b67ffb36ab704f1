"""Each model: what runs it, its weights, and its engines, by the code that a server refuses them with."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from serve.cli.doctor import gpus
from serve.cli.doctor.executors import executors, on_cuda
from serve.cli.doctor.findings import Finding, guarded, ok, refused
from serve.cli.doctor.weights import Piece, here, pieces_of, weights
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.backends.manifest import CompiledBackend
    from serve.settings import ModelSettings, Settings


def models(settings: "Settings") -> Iterator[Finding]:
    for model in settings.models:
        yield from guarded(f"model {model.id}", partial(_model, model))


def _model(model: "ModelSettings") -> Iterator[Finding]:
    from serve.families import facts_of  # noqa: PLC0415

    try:
        facts_of(model)
    except ConfigurationError as error:
        yield refused(f"model {model.id}", error)
        return
    yield from _backends(model)
    yield from weights(model)
    yield from _engines(model)


def _backends(model: "ModelSettings") -> Iterator[Finding]:
    """Those on CPUs are opened, which takes nothing; GPUs and Triton have checks of their own."""
    from serve.backends import load_backend  # noqa: PLC0415

    for own in executors(model):
        check = f"backend {own.backend} of {model.id}"
        if on_cuda(own) and own.backend in ("torch", "tensorrt", "triton"):
            continue
        try:
            if own.backend in ("torch", "triton"):
                from serve.backends.torch import open_device  # noqa: PLC0415  # Its own start may compile something.

                open_device(own.device)
            else:
                yield ok(check, load_backend(own).name)
        except ConfigurationError as error:
            yield refused(check, error)


def _engines(model: "ModelSettings") -> Iterator[Finding]:
    """None where there are no weights to compare them with, which is a finding already."""
    from serve.backends.manifest import ENGINE_FILES  # noqa: PLC0415

    found = here(model)
    try:
        pieces = {} if found is None else pieces_of(found)
    except ConfigurationError:
        return
    for name, piece in pieces.items():
        backend: CompiledBackend | None = next((known for known in ENGINE_FILES if known == piece.own.backend), None)
        if backend is not None:
            yield _engine(name, piece, backend)


def _engine(component: str, piece: Piece, backend: "CompiledBackend") -> Finding:
    from serve.backends.manifest import Engine  # noqa: PLC0415
    from serve.families.checkpoint import reading  # noqa: PLC0415

    own, part = piece.own, piece.part
    check = f"engine {own.id}.{component}"
    engine = Engine(own.model_repository, own.id, component)
    try:
        architecture, libraries = _for_this_gpu() if backend == "tensorrt" else ("", {})
        with reading(str(part.weights)):
            engine.checked(backend, own.precision, part.spec, part.weights, architecture, libraries)
    except ConfigurationError as error:
        return refused(check, error)
    return ok(check, f"{engine.file(backend)}, {backend} in {own.precision}")


def _for_this_gpu() -> tuple[str, Mapping[str, str]]:
    """What a plan must be for: the chip, where there is one, and the library. Raises ConfigurationError."""
    from serve.backends.tensorrt_library import identity, load_library  # noqa: PLC0415

    there = gpus.visible()
    architecture = "sm_" + there[0].capability.replace(".", "") if there else ""
    return architecture, identity(load_library())
