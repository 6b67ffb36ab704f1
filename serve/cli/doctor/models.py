"""Each model: what runs it, its weights, and its engines, by the code that a server refuses them with."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cli.doctor import gpus
from serve.cli.doctor.executors import executors, on_cuda
from serve.cli.doctor.findings import Finding, guarded, ok, refused, warning, wrong
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from build_engines.parts import Part
    from serve.backends.manifest import CompiledBackend
    from serve.settings import ModelSettings, Precision, Settings

_WEIGHTS = "*.safetensors"


def models(settings: "Settings") -> Iterator[Finding]:
    for model in settings.models:
        yield from guarded(f"model {model.id}", partial(_model, model))


def parts_by_precision(model: "ModelSettings", precision: "Precision") -> "Mapping[str, Part]":
    """The model's components, of weights that are here already. Raises ConfigurationError."""
    import diffusers  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    from build_engines.parts import parts_of  # noqa: PLC0415

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    _, parts = parts_of(model, precision)
    return parts


def tensors_of(own: "ModelSettings") -> "Precision":
    """The precision of the tensors between components, which for OpenVINO is not that of its arithmetic."""
    return "float32" if own.backend == "openvino" else own.precision


def here(model: "ModelSettings") -> "ModelSettings | None":
    """The model with its weights as a folder, where they are a hub id of which the cache holds a copy; None: a start
    would download them."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    from serve.families import takes_hub_ids  # noqa: PLC0415

    if Path(model.weights).is_dir() or not takes_hub_ids(model):
        return model
    try:
        return model.model_copy(update={"weights": snapshot_download(model.weights, local_files_only=True)})
    except HFValidationError:
        return model  # no hub id either, which the family refuses
    except LocalEntryNotFoundError:
        return None


def numbers_of(folders: Iterable[Path]) -> int:
    """That their weights are; those that cannot be read count as none, and are told of elsewhere."""
    from serve.backends.fingerprint import numbers_in  # noqa: PLC0415

    count = 0
    for folder in folders:
        with suppress(OSError, ValueError):
            count += numbers_in(folder)
    return count


def _model(model: "ModelSettings") -> Iterator[Finding]:
    from serve.families import facts_of  # noqa: PLC0415

    try:
        facts_of(model)
    except ConfigurationError as error:
        yield refused(f"model {model.id}", error)
        return
    yield from _backends(model)
    found = here(model)
    if found is None:
        yield _download(model)
        return
    try:
        told = _weights(found)
    except ConfigurationError as error:
        yield refused(
            f"weights {model.id}", error, "name a folder in diffusers' layout, complete, by the model's weights"
        )
        return
    yield ok(f"weights {model.id}", told)
    yield from _engines(found)


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


def _download(model: "ModelSettings") -> Finding:
    from huggingface_hub import constants  # noqa: PLC0415

    check, fetch = f"weights {model.id}", f"fetch them before: hf download {model.weights}"
    found = f"there is no folder {model.weights}, nor a copy of that hub id in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return wrong(check, f"{found}, and HF_HUB_OFFLINE forbids to download it", f"unset it, or {fetch}")
    return warning(check, f"{found}: a start downloads it", fetch)


def _weights(model: "ModelSettings") -> str:
    """What there is to tell of them. Raises ConfigurationError."""
    from serve.backends import component_settings  # noqa: PLC0415

    parts = parts_by_precision(model, tensors_of(model))
    for name, part in parts.items():
        if component_settings(model, name).backend == "torch":
            _refuse_incomplete(part.weights)
    folders = {part.weights for part in parts.values()}
    return f"{model.weights}, {numbers_of(folders) / 1e6:,.1f} million numbers"


def _refuse_incomplete(folder: Path) -> None:
    """A file that is missing or cut off; what lies in it is read at a start alone. Raises ConfigurationError."""
    import json  # noqa: PLC0415

    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    for index in folder.glob("*.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in named if not (folder / name).is_file())
        if missing:
            raise ConfigurationError(
                f"{folder} lacks {', '.join(missing)}, which {index.name} names; download it again"
            )
    files = sorted(folder.glob(_WEIGHTS))
    if not files and not list(folder.glob("*.bin")):
        raise ConfigurationError(f"{folder} holds no weights; download them")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ConfigurationError(f"{file} is damaged ({error}); download it again") from None


def _engines(model: "ModelSettings") -> Iterator[Finding]:
    from serve.backends import component_settings  # noqa: PLC0415
    from serve.backends.manifest import ENGINE_FILES  # noqa: PLC0415
    from serve.families import components_of  # noqa: PLC0415

    for name in components_of(model):
        own = component_settings(model, name)
        backend: CompiledBackend | None = next((known for known in ENGINE_FILES if known == own.backend), None)
        if backend is not None:
            yield _engine(own, name, backend)


def _engine(own: "ModelSettings", component: str, backend: "CompiledBackend") -> Finding:
    from serve.backends.manifest import Engine  # noqa: PLC0415
    from serve.families.checkpoint import reading  # noqa: PLC0415

    check = f"engine {own.id}.{component}"
    part = parts_by_precision(own, tensors_of(own))[component]
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
