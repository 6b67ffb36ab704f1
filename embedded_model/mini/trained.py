"""What is trained so far: by runs in the work folder, and else as the checkpoint has it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from embedded_model.mini.autoencoder import SCALE, new_autoencoder, scale_of
from embedded_model.mini.batches import sentences
from embedded_model.mini.loop import load_average, trained
from embedded_model.mini.network import Shape, Tokenizers, kept_tokenizers, new_networks, scaled
from embedded_model.mini.words_stage import WordsStage

CHECKPOINT = Path(__file__).parent / "checkpoint"
TOKENIZED_SENTENCES = 40_000
ENCODERS = ("text_encoder", "text_encoder_2")
_LOADING: Any = {"torch_dtype": torch.float32, "local_files_only": True}


def tokenizers_of(work: Path) -> Tokenizers:
    """Those that the text encoders have learned with."""
    if trained(work / "words"):
        return kept_tokenizers(work / "tokenizers", partial(sentences, TOKENIZED_SENTENCES))
    clip, t5 = CHECKPOINT / "tokenizer", CHECKPOINT / "tokenizer_2"
    return Tokenizers(CLIPTokenizer.from_pretrained(clip), T5Tokenizer.from_pretrained(t5))


def networks_of(work: Path, tokenizers: Tokenizers) -> nn.ModuleDict:
    """The transformer, which learns in the block transform's latents, and text encoders; CLIP is to stay as it is.

    To other text encoders than the checkpoint's belongs a new transformer.
    """
    networks = new_networks(tokenizers, Shape())
    if trained(work / "words"):
        load_average(WordsStage(text_encoders(networks), tokenizers, 0, torch.device("cpu")).modules, work / "words")
    else:
        networks["text_encoder"] = CLIPTextModel.from_pretrained(CHECKPOINT / "text_encoder", **_LOADING)
        networks["text_encoder_2"] = T5EncoderModel.from_pretrained(CHECKPOINT / "text_encoder_2", **_LOADING)
        told = FluxTransformer2DModel.from_pretrained(CHECKPOINT / "transformer", **_LOADING)
        networks["transformer"] = scaled(told, 1 / scale_of(_checkpoints_autoencoder()))
    networks["text_encoder"].requires_grad_(False)
    return networks


def text_encoders(networks: nn.ModuleDict) -> Mapping[str, nn.Module]:
    return {name: networks[name] for name in ENCODERS}


def autoencoder_of(work: Path) -> AutoencoderKL:
    autoencoder: Any
    if trained(work / "decoder"):
        autoencoder = new_autoencoder()
        halves: dict[str, Any] = {"encoder": autoencoder.encoder, "decoder": autoencoder.decoder}
        load_average(nn.ModuleDict(halves), work / "decoder")
    else:
        autoencoder = _checkpoints_autoencoder()
        autoencoder.register_to_config(scaling_factor=SCALE)  # which neither half of it knows of
    return autoencoder.requires_grad_(False).eval()


def _checkpoints_autoencoder() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(CHECKPOINT / "vae", **_LOADING)
