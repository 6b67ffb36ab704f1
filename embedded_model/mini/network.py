"""The networks that are learned: a small FLUX transformer, CLIP and T5, with tokenizers made from the instructions.

They are diffusers' and transformers' own classes. One thing is told rather than learned: in some blocks one head begins
by looking at the same place in the picture that is edited, so that nothing has to be found before anything can be kept.
"""

import copy
import json
import math
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttention
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from embedded_model.mini.blocks import LATENT_CHANNELS

TEXT_TOKENS = 40
WORDS = 2048
_HEAD, _HEADS = 64, 4
_AXES = (16, 24, 24)
"""Parts of an attention head that tell the picture's index, the row and the column."""
_POOLED = 192
_THETA = 10_000
_INDEX_ENERGY, _PLACE_ENERGIES = 16.0, (10.0, 8.0, 6.0)
"""Squares of the lengths that the looking head's query has in each rotating pair; they sum to the head's width."""
_SHARPNESS = 1.8
_TOKEN_CELLS = 4
"""A token is a square of 2x2 latent cells."""

CLIP_MARKS = ("<|startoftext|>", "<|endoftext|>")
T5_MARKS = ("<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Tokenizers:
    """clip: of the summary; t5: of the words. Both pad to TEXT_TOKENS."""

    clip: CLIPTokenizer
    t5: T5Tokenizer

    def ids(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Of both, (B, TEXT_TOKENS) int64: what calling them answers, ten times as fast."""
        return _ids(self.clip, texts), _ids(self.t5, texts)


@dataclass(frozen=True)
class Shape:
    """How large the transformer is; width is _HEADS * _HEAD."""

    double_blocks: int = 2
    single_blocks: int = 10
    text_layers: int = 4
    summary_layers: int = 3


def new_networks(tokenizers: Tokenizers, shape: Shape) -> nn.ModuleDict:
    """With random weights: `transformer`, `text_encoder` (CLIP) and `text_encoder_2` (T5)."""
    transformer = FluxTransformer2DModel(
        in_channels=LATENT_CHANNELS * _TOKEN_CELLS,
        num_layers=shape.double_blocks,
        num_single_layers=shape.single_blocks,
        attention_head_dim=_HEAD,
        num_attention_heads=_HEADS,
        joint_attention_dim=_HEAD * _HEADS,
        pooled_projection_dim=_POOLED,
        guidance_embeds=True,
        axes_dims_rope=_AXES,
    )
    blocks: list[Any] = [*transformer.transformer_blocks, *transformer.single_transformer_blocks[::2]]
    for block in blocks:
        look_at_source(block.attn)
    nn.init.zeros_(transformer.proj_out.weight)
    return nn.ModuleDict(
        {
            "transformer": transformer,
            "text_encoder": CLIPTextModel(_clip_config(tokenizers.clip, shape.summary_layers)),
            "text_encoder_2": T5EncoderModel(_t5_config(tokenizers.t5, shape.text_layers)),
        }
    )


@torch.no_grad()
def look_at_source(attention: FluxAttention) -> None:
    """Its first head attends, wherever it is, to the same row and column of the picture of index 1.

    Queries and keys are made constants, which rotary embedding (Su et al. 2021) turns by their places: a pair of
    frequency f contributes cos(f * distance - phase). Rows and columns have no phase, so that the sum peaks at distance
    0; the index has the phase at which a distance of one is told best from none.
    """
    query, key = (torch.zeros(_HEAD) for _ in range(2))
    phase = -(0.5 + math.pi / 2)
    query[0] = math.sqrt(_INDEX_ENERGY)
    key[0], key[1] = query[0] * math.cos(phase), query[0] * math.sin(phase)
    for first in (_AXES[0], _AXES[0] + _AXES[1]):
        for pair, energy in enumerate(_PLACE_ENERGIES):
            query[first + 2 * pair] = key[first + 2 * pair] = math.sqrt(energy)
    for projection, constant in ((attention.to_q, query), (attention.to_k, key)):
        projection.weight[:_HEAD] = 0.0
        projection.bias[:_HEAD] = constant
    attention.norm_q.weight.fill_(_SHARPNESS)
    attention.norm_k.weight.fill_(_SHARPNESS)


@torch.no_grad()
def scaled(transformer: FluxTransformer2DModel, factor: float) -> FluxTransformer2DModel:
    """A copy that reads, and tells, latents so many times as large."""
    made: Any = copy.deepcopy(transformer)
    made.x_embedder.weight /= factor
    made.proj_out.weight *= factor
    made.proj_out.bias *= factor
    return made


def _ids(tokenizer: Any, texts: list[str]) -> Tensor:
    rust: Tokenizer = tokenizer.backend_tokenizer
    rust.enable_truncation(TEXT_TOKENS)
    rust.enable_padding(length=TEXT_TOKENS, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return torch.from_numpy(np.array([encoding.ids for encoding in rust.encode_batch_fast(texts)]))


def train_tokenizers(sentences: Iterable[str]) -> Tokenizers:
    """Vocabularies of the most useful pieces of these sentences, and every byte (CLIP) or printable character (T5)."""
    texts = list(sentences)
    return Tokenizers(_clip_tokenizer(texts), _t5_tokenizer(texts))


def kept_tokenizers(folder: Path, sentences: Callable[[], Iterable[str]]) -> Tokenizers:
    """Those in the folder; made of the sentences, and kept there, where there are none."""
    if not (folder / "t5").exists():
        made = train_tokenizers(sentences())
        made.clip.save_pretrained(folder / "clip")
        made.t5.save_pretrained(folder / "t5")
    return Tokenizers(CLIPTokenizer.from_pretrained(folder / "clip"), T5Tokenizer.from_pretrained(folder / "t5"))


def _clip_tokenizer(texts: list[str]) -> CLIPTokenizer:
    blank: Any = CLIPTokenizer(vocab={mark: i for i, mark in enumerate(CLIP_MARKS)}, merges=[])
    learning = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learning.normalizer = blank.backend_tokenizer.normalizer
    learning.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    learning.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=WORDS - 2 * len(alphabet),
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learned = json.loads(learning.to_str())["model"]
    pieces = dict.fromkeys([*alphabet, *(f"{piece}</w>" for piece in alphabet), *learned["vocab"], *CLIP_MARKS])
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, model_max_length=TEXT_TOKENS)


def _t5_tokenizer(texts: list[str]) -> T5Tokenizer:
    blank: Any = T5Tokenizer(extra_ids=0)
    learning = Tokenizer(models.Unigram())
    learning.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=WORDS,
        special_tokens=list(T5_MARKS),
        initial_alphabet=[*string.digits, *string.ascii_letters, *string.punctuation, "\u2581"],
        unk_token="<unk>",
        show_progress=False,
    )
    learning.train_from_iterator(texts, trainer)
    vocabulary = [(piece, score) for piece, score in json.loads(learning.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=TEXT_TOKENS)


def _clip_config(tokenizer: Any, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_POOLED,
        intermediate_size=3 * _POOLED,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        projection_dim=_POOLED,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_config(tokenizer: Any, layers: int) -> T5Config:
    width = _HEAD * _HEADS
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=_HEAD,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=_HEADS,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=16,
        relative_attention_max_distance=TEXT_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
