"""Writes what was trained as a folder that diffusers' `FluxKontextPipeline.from_pretrained` loads, and the server."""

import copy
import json
from pathlib import Path

from diffusers import AutoencoderKL
from torch import nn

from embedded_model.mini.network import Tokenizers
from embedded_model.mini.sampling import pipeline_of


def export(networks: nn.ModuleDict, autoencoder: AutoencoderKL, tokenizers: Tokenizers, folder: Path) -> None:
    """Weights are stored in half precision to halve the download; they are meant to be loaded in float32."""
    pipeline = pipeline_of(copy.deepcopy(networks).half(), copy.deepcopy(autoencoder).half(), tokenizers)
    pipeline.save_pretrained(folder)
    for config in folder.glob("*/config.json"):
        _tidy(config)


def _tidy(config: Path) -> None:
    """Without the folder that weights were loaded from; and transformers loads at the precision that the configuration
    names unless told otherwise."""
    fields = json.loads(config.read_text())
    fields.pop("_name_or_path", None)
    if "dtype" in fields:
        fields["dtype"] = "float32"
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
