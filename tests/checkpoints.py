"""Small checkpoints with random weights, made of the real diffusers and transformers classes in diffusers' layout.

About 200,000 parameters, so that a whole edit takes a fraction of a second; weights are scaled up so that the untrained
network visibly moves the latents and answers differently to every input.
"""

import json
import string
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from serve.families.pixel_edit_unet import PixelEditUNet

Module = TypeVar("Module", bound=nn.Module)

TEXT_TOKENS = 16
SUMMARY_TOKENS = 8
"""CLIP reads fewer than T5, as in the real model."""
TEXT_WIDTH = 32
TOKEN_PIXELS = 16
"""Side in pixels of what a latent token shows, as in the real model."""


def flux_kontext(folder: Path) -> Path:
    """FLUX.1 Kontext in small; text of up to 16 tokens, sides that are multiples of 16 pixels. Answers `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FluxKontextPipeline(
            scheduler=_flux_scheduler(),
            vae=_scaled(_autoencoder(), 1.3),
            text_encoder=_scaled(_clip(), 1.3),
            tokenizer=_clip_tokenizer(),
            text_encoder_2=_scaled(_t5(len(_t5_tokenizer())), 1.3),
            tokenizer_2=_t5_tokenizer(),
            transformer=_scaled(_flux_transformer(), 2.0),
        )
    pipeline.save_pretrained(folder)
    return folder


def pixel_edit(folder: Path) -> Path:
    """The embedded model in small; text of up to 16 bytes. Answers `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = PixelEditUNet(
            channels=(8, 12, 16), blocks_per_level=1, conditioning_dim=16, text_dim=TEXT_WIDTH, text_length=TEXT_TOKENS
        )
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.1)  # as built, it is the identity
        _t5(len(byte_tokenizer())).save_pretrained(folder / "text_encoder")
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


def _flux_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def _autoencoder() -> AutoencoderKL:
    """FLUX's constants: 16 channels, no quantisation convolutions, a shift and a scale."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=(8, 8, 8, 8),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def _clip_tokenizer() -> CLIPTokenizer:
    """One token a byte: no merges."""
    marks = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = sorted(ByteLevel.alphabet())
    pieces = alphabet + [f"{piece}</w>" for piece in alphabet] + marks
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=SUMMARY_TOKENS)


def _clip() -> CLIPTextModel:
    tokenizer: Any = _clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=SUMMARY_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5_tokenizer() -> T5Tokenizer:
    """One token a printable character."""
    characters = string.digits + string.ascii_letters + string.punctuation
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *characters]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0, model_max_length=TEXT_TOKENS)


def _t5(words: int) -> T5EncoderModel:
    """words: of the tokenizer's vocabulary."""
    return T5EncoderModel(T5Config(vocab_size=words, d_model=TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4))


def _scaled(module: Module, factor: float) -> Module:
    for parameter in module.parameters():
        parameter.data.mul_(factor)
    return module.eval()
