"""Checkpoints on disk: their parts, complete, or the one sentence that a failed start shows."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from serve.errors import BackendUnavailable, ConfigurationError


@contextmanager
def reading(what: str) -> Generator[None]:
    """Raises what goes wrong while `what` is read as a ConfigurationError of one sentence.

    diffusers, transformers, tokenizers and safetensors have no error in common; tokenizers raises plain `Exception`.
    """
    try:
        yield
    except (ConfigurationError, BackendUnavailable):
        raise
    except Exception as error:
        raise ConfigurationError(f"{what} cannot be loaded: {_reason(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file. Raises ConfigurationError."""
    with reading(str(path)):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path} holds no JSON object")
        return content


def load_tokenizer(tokenizer: Any, folder: str | Path, subfolder: str) -> Any:
    """The tokenizer of that class. Raises ConfigurationError."""
    with reading(f"{folder}/{subfolder}"):
        return tokenizer.from_pretrained(folder, subfolder=subfolder)


def load_weights(model: Any, folder: str | Path, subfolder: str, dtype: torch.dtype) -> Any:
    """The part of that class with all its weights. Raises ConfigurationError.

    model: a class of diffusers or transformers. For weights that are missing both would fill in random ones and warn;
    those of another shape diffusers refuses by name, and transformers without.
    """
    where = f"{folder}/{subfolder}"
    with reading(where):
        loaded, report = model.from_pretrained(
            folder, subfolder=subfolder, dtype=dtype, output_loading_info=True, **_reporting_shapes(model)
        )
        missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing:
        raise ConfigurationError(f"{where} lacks {len(missing)} weights, the first is {missing[0]}")
    if mismatched:
        name, found, expected = mismatched[0]
        raise ConfigurationError(f"{where}: {name} has shape {tuple(found)}; its config.json says {tuple(expected)}")
    return loaded


def _reporting_shapes(model: type) -> dict[str, Any]:
    return {"ignore_mismatched_sizes": True} if issubclass(model, PreTrainedModel) else {}


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return next(iter(str(error).splitlines()), type(error).__name__)
