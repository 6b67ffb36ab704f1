"""Small checkpoints with random weights, made of the real diffusers and transformers classes in diffusers' layout."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from benchmarks.checkpoints import TEXT_TOKENS, TEXT_WIDTH, flux_kontext, small_t5
from serve.families.pixel_edit_unet import PixelEditUNet

__all__ = ["TEXT_TOKENS", "byte_tokenizer", "flux_kontext", "pixel_edit"]


def pixel_edit(folder: Path) -> Path:
    """The embedded model in small; text of up to 16 bytes. Answers `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = PixelEditUNet(
            channels=(8, 12, 16), blocks_per_level=1, conditioning_dim=16, text_dim=TEXT_WIDTH, text_length=TEXT_TOKENS
        )
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.1)  # as built, it is the identity
        small_t5(len(byte_tokenizer())).save_pretrained(folder / "text_encoder")
        denoiser.save_pretrained(folder / "denoiser")
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = {"_class_name": "PixelEditPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte; lower-cased, in the compatibility form of Unicode, ended by a mark."""
    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "</s>", *sorted(ByteLevel.alphabet())])}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=TEXT_TOKENS
    )
