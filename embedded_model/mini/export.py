"""Writes what was trained as a folder that diffusers' `FluxKontextPipeline.from_pretrained` loads, and the server."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from torch import nn

from embedded_model.mini.network import Tokenizers
from embedded_model.mini.sampling import pipeline_of


def export(networks: nn.ModuleDict, autoencoder: AutoencoderKL, tokenizers: Tokenizers, folder: Path) -> None:
    """Weights are stored in half precision to halve the download; they are meant to be loaded in float32."""
    pipeline = pipeline_of(copy.deepcopy(networks).half(), copy.deepcopy(autoencoder).half(), tokenizers)
    pipeline.save_pretrained(folder)
    for encoder in ("text_encoder", "text_encoder_2"):
        _declare_float32(folder / encoder / "config.json")


def export_parts(
    encoders: Mapping[str, nn.Module], autoencoder: AutoencoderKL, tokenizers: Tokenizers, folder: Path
) -> None:
    """All but the transformer, in the same places. encoders: the text encoders by their names."""
    parts: dict[str, Any] = {"vae": autoencoder, **encoders}
    for name, part in parts.items():
        copy.deepcopy(part).half().save_pretrained(folder / name)
    tokenizers.clip.save_pretrained(folder / "tokenizer")
    tokenizers.t5.save_pretrained(folder / "tokenizer_2")
    for name in encoders:
        _declare_float32(folder / name / "config.json")


def _declare_float32(config: Path) -> None:
    """transformers loads at the precision that the configuration names unless told otherwise."""
    fields = json.loads(config.read_text())
    fields["dtype"] = "float32"
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
