"""FLUX.1 Kontext checkpoints in diffusers' layout: a small one with random weights, and the real geometry without any.

`python -m benchmarks.checkpoints FOLDER` writes the second, which is what the simulated backend needs; with `--weights`
the first, which any backend runs on a CPU in a fraction of a second: about 200,000 parameters, scaled up so that the
untrained network visibly moves the latents and answers differently to every input.
"""

import argparse
import json
import string
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from benchmarks.real_shapes import (
    FLUX_AUTOENCODER,
    REAL_AUTOENCODER,
    REAL_SUMMARY_TOKENS,
    REAL_TEXT_TOKENS,
    REAL_TRANSFORMER,
)

Module = TypeVar("Module", bound=nn.Module)

TEXT_TOKENS = 16
SUMMARY_TOKENS = 8
"""CLIP reads fewer than T5, as in the real model. Both are of the small checkpoint."""
TEXT_WIDTH = 32


def flux_kontext(folder: Path) -> Path:
    """FLUX.1 Kontext in small; text of up to 16 tokens, sides that are multiples of 16 pixels. Answers `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FluxKontextPipeline(
            scheduler=_flux_scheduler(),
            vae=_scaled(_autoencoder(), 1.3),
            text_encoder=_scaled(_clip(), 1.3),
            tokenizer=_clip_tokenizer(SUMMARY_TOKENS),
            text_encoder_2=_scaled(small_t5(len(_t5_tokenizer(TEXT_TOKENS))), 1.3),
            tokenizer_2=_t5_tokenizer(TEXT_TOKENS),
            transformer=_scaled(_flux_transformer(), 2.0),
        )
    pipeline.save_pretrained(folder)
    return folder


def flux_kontext_configurations(folder: Path) -> Path:
    """The real model's geometry, its lengths of text and its layers; no weights. Answers `folder`.

    The text's vectors are narrow and its vocabularies small, so that it is written and loaded in milliseconds: 16
    latent channels at an eighth of the picture's sides, tokens of 64 channels, 512 tokens of text, 77 of its summary.
    """
    _write(folder / "model_index.json", {"_class_name": "FluxKontextPipeline"})
    narrow = {**REAL_TRANSFORMER, "joint_attention_dim": TEXT_WIDTH, "pooled_projection_dim": TEXT_WIDTH}
    _write(folder / "transformer" / "config.json", {"_class_name": "FluxTransformer2DModel", **narrow})
    _write(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **REAL_AUTOENCODER})
    _flux_scheduler().save_pretrained(folder / "scheduler")
    _clip_tokenizer(REAL_SUMMARY_TOKENS).save_pretrained(folder / "tokenizer")
    _t5_tokenizer(REAL_TEXT_TOKENS).save_pretrained(folder / "tokenizer_2")
    return folder


def small_t5(words: int) -> T5EncoderModel:
    """words: of the tokenizer's vocabulary."""
    return T5EncoderModel(T5Config(vocab_size=words, d_model=TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4))


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
    small: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    return AutoencoderKL(**FLUX_AUTOENCODER, **small)


def _flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def _clip_tokenizer(length: int) -> CLIPTokenizer:
    """One token a byte: no merges."""
    marks = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = sorted(ByteLevel.alphabet())
    pieces = alphabet + [f"{piece}</w>" for piece in alphabet] + marks
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def _clip() -> CLIPTextModel:
    tokenizer: Any = _clip_tokenizer(SUMMARY_TOKENS)
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


def _t5_tokenizer(length: int) -> T5Tokenizer:
    """One token a printable character."""
    characters = string.digits + string.ascii_letters + string.punctuation
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *characters]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0, model_max_length=length)


def _scaled(module: Module, factor: float) -> Module:
    for parameter in module.parameters():
        parameter.data.mul_(factor)
    return module.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", action="store_true", help="a small model with random weights")
    arguments = parser.parse_args()
    write = flux_kontext if arguments.weights else flux_kontext_configurations
    print(write(arguments.folder))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
