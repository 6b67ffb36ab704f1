"""Triton servers: whether they answer, and serve the components that models leave to them."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from serve.cli.doctor.findings import Finding, guarded, ok, refused, wrong
from serve.cli.doctor.weights import here, pieces_of
from serve.errors import BackendUnavailable, ConfigurationError

if TYPE_CHECKING:
    from serve.settings import ModelSettings, Settings

ANSWER_S = 5.0


def triton(settings: "Settings") -> Iterator[Finding]:
    from serve.backends import component_settings  # noqa: PLC0415
    from serve.families import FAMILIES, components_of  # noqa: PLC0415

    for model in settings.models:
        if model.family not in FAMILIES:
            continue  # which is found with the models
        left = [name for name in components_of(model) if component_settings(model, name).backend == "triton"]
        if left:
            yield from guarded(f"triton of {model.id}", partial(_served, model, left))


def _served(model: "ModelSettings", left: Sequence[str]) -> Iterator[Finding]:
    from serve.backends.manifest import triton_name  # noqa: PLC0415
    from serve.backends.triton import checked  # noqa: PLC0415
    from serve.backends.triton_server import Refused, TritonServer  # noqa: PLC0415

    check, address = f"triton of {model.id}", model.triton.address
    server = TritonServer(model.triton.model_copy(update={"timeout_s": ANSWER_S}))
    try:
        server.check(())
        version = server.await_version()
        configurations = server.configurations(triton_name(model.id, ""))
    except BackendUnavailable:
        yield wrong(
            check, f"no Triton server answers at {address} (triton.address)", "start it, or correct the address"
        )
        return
    except Refused as error:
        yield wrong(check, f"what answers at {address} does not tell what it serves: {error}", "correct triton.address")
        return
    yield ok(check, f"{version} at {address} runs {', '.join(sorted(configurations)) or 'nothing of it'}")
    found = here(model)
    try:
        pieces = {} if found is None else pieces_of(found)
    except ConfigurationError:
        return  # which is found with the models
    for name, piece in pieces.items():
        if name not in left:
            continue
        part = f"triton {model.id}.{name}"
        try:
            checked(piece.own, piece.part.spec, configurations.get(name))
        except ConfigurationError as error:
            yield refused(part, error)
        else:
            yield ok(part, "is ready, and takes what is sent to it")
