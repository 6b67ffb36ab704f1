"""Writes a checkpoint folder in the diffusers layout."""

import copy
import json
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from serve.families.pixel_edit_unet import PixelEditUNet

MODEL_INDEX = {
    "_class_name": "PixelEditPipeline",
    "_diffusers_version": "0.42.1",
    "denoiser": ["serve.families.pixel_edit_unet", "PixelEditUNet"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
}


def export_checkpoint(
    denoiser: PixelEditUNet,
    text_encoder: T5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    shift: float = 1.0,
) -> None:
    """Weights are stored in half precision to halve the download; they are meant to be loaded in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(denoiser).half().save_pretrained(folder / "denoiser")
    copy.deepcopy(text_encoder).half().save_pretrained(folder / "text_encoder")
    _declare_float32(folder / "text_encoder" / "config.json")
    tokenizer.save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=shift).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def _declare_float32(config: Path) -> None:
    """transformers loads at the precision that the configuration names unless told otherwise."""
    fields = json.loads(config.read_text())
    fields["dtype"] = "float32"
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
