"""Weights: whether they are here, in their family's layout and whole, and what they take."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve.cli.doctor import gpus
from serve.cli.doctor.executors import on_cuda
from serve.cli.doctor.findings import Finding, gib, ok, refused, warning, wrong
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from build_engines.parts import Part
    from serve.settings import ModelSettings, Precision

MIB = 2**20
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class Piece:
    """A component: the settings of what runs it, and what the weights' folder declares of it."""

    own: "ModelSettings"
    part: "Part"


def weights(model: "ModelSettings") -> Iterator[Finding]:
    check, found = f"weights {model.id}", here(model)
    if found is None:
        yield _download(model)
        return
    try:
        pieces = pieces_of(found)
        for piece in pieces.values():
            if piece.own.backend == "torch":
                _refuse_incomplete(piece.part.weights)
    except ConfigurationError as error:
        yield refused(check, error, "name a folder in diffusers' layout, complete, by the model's weights")
        return
    numbers = numbers_of({piece.part.weights for piece in pieces.values()})
    yield ok(check, f"{found.weights}, {numbers / 1e6:,.1f} million numbers")
    yield from _room(found)


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


def pieces_of(model: "ModelSettings") -> Mapping[str, Piece]:
    """By component, of weights that are here, of which no number is read. Raises ConfigurationError."""
    import diffusers  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    from build_engines.parts import parts_of  # noqa: PLC0415
    from serve.backends import component_settings  # noqa: PLC0415
    from serve.families import components_of  # noqa: PLC0415

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    owns = {name: component_settings(model, name) for name in components_of(model)}
    parts = {precision: parts_of(model, precision)[1] for precision in {_tensors_of(own) for own in owns.values()}}
    return {name: Piece(own, parts[_tensors_of(own)][name]) for name, own in owns.items()}


def weights_bytes(model: "ModelSettings") -> int:
    """About what a replica holds; 0 where the weights are no folder, as before they are downloaded."""
    folder = Path(model.weights)
    parts = [part for part in folder.iterdir() if part.is_dir()] if folder.is_dir() else []
    return _BYTES[model.precision] * numbers_of(parts)


def numbers_of(folders: Iterable[Path]) -> int:
    """That their weights are; those that cannot be read count as none, and are told of elsewhere."""
    from serve.backends.fingerprint import numbers_in  # noqa: PLC0415

    count = 0
    for folder in folders:
        with suppress(OSError, ValueError):
            count += numbers_in(folder)
    return count


def _tensors_of(own: "ModelSettings") -> "Precision":
    """The precision of the tensors between components, which for OpenVINO is not that of its arithmetic."""
    return "float32" if own.backend == "openvino" else own.precision


def _download(model: "ModelSettings") -> Finding:
    from huggingface_hub import constants  # noqa: PLC0415

    check, fetch = f"weights {model.id}", f"fetch them before: hf download {model.weights}"
    found = f"there is no folder {model.weights}, nor a copy of that hub id in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        return wrong(check, f"{found}, and HF_HUB_OFFLINE forbids to download it", f"unset it, or {fetch}")
    return warning(check, f"{found}: a start downloads it", fetch)


def _room(model: "ModelSettings") -> Iterator[Finding]:
    """Whether the smallest GPU holds them at all."""
    if not on_cuda(model) or model.backend not in ("torch", "tensorrt"):
        return
    with suppress(OSError):  # of a driver that fails, which is a finding of its own
        sizes = [int(gpu.total_mib) * MIB for gpu in gpus.visible() if gpu.total_mib.isdecimal()]
        wanted = weights_bytes(model)
        if sizes and wanted > min(sizes) * model.memory_share:
            found = f"in {model.precision} they are {gib(wanted)}, and a GPU here has {gib(min(sizes))}"
            advice = "choose a smaller precision, let components run elsewhere, or use larger GPUs"
            yield warning(f"weights {model.id}", found, advice)


def _refuse_incomplete(folder: Path) -> None:
    """A file that is missing or cut off; what lies in it is read at a start alone. Raises ConfigurationError."""
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
