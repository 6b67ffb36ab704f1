"""The first stage: the text encoders learn which edit a sentence asks for, which takes no pictures.

As CLIP and T5 are trained long before the transformer of a FLUX model. Here T5 goes on to learn with it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedded_model.mini.batches import asked
from embedded_model.mini.device import attention, autocast
from embedded_model.mini.network import Tokenizers

FEATURES = 1024
"""Words of edits' names fall into so many buckets (Weinberger et al. 2009, "Feature hashing")."""


class WordsStage:
    """Predicts the words of the edit's name from CLIP's summary, and from the mean of T5's states."""

    def __init__(
        self, text_encoders: Mapping[str, nn.Module], tokenizers: Tokenizers, batch: int, device: torch.device
    ) -> None:
        """text_encoders: `text_encoder` (CLIP) and `text_encoder_2` (T5), which learn in place."""
        encoders: Any = text_encoders
        heads = {f"{name}_head": _head(encoders[name].config.hidden_size) for name in text_encoders}
        self.modules = nn.ModuleDict({**text_encoders, **heads}).to(device)
        self.matrices: list[Tensor] = []
        self._tokenizers, self._batch, self._device = tokenizers, batch, device

    def losses(self, step: int) -> Mapping[str, Tensor]:
        sentences, names = zip(*asked(self._batch, seed=step + 1), strict=True)
        wanted = features(names).to(self._device)
        clip_ids, t5_ids = (ids.to(self._device) for ids in self._tokenizers.ids(list(sentences)))
        with autocast(self._device), attention(self._device):
            summary = self.modules["text_encoder"](input_ids=clip_ids).pooler_output
            states = self.modules["text_encoder_2"](input_ids=t5_ids).last_hidden_state
            found = {
                "clip": self.modules["text_encoder_head"](summary),
                "t5": self.modules["text_encoder_2_head"](states.mean(1)),
            }
        each = {name: _surprise(logits.float(), wanted) for name, logits in found.items()}
        right = {f"{name}_right": _right(logits, wanted) for name, logits in found.items()}
        return {"loss": each["clip"] + each["t5"], **each, **right}

    def show(self, average: nn.ModuleDict, file: Path) -> None:
        """There is nothing to see."""


def features(names: Sequence[str]) -> Tensor:
    """(B, FEATURES), 1 for the words of each edit's name: which of its edits they belong to, and which side of "to" or
    "with"."""
    found = torch.zeros(len(names), FEATURES)
    for row, name in enumerate(names):
        for place, edit in enumerate(name.split(", then ")):
            for side, words in enumerate(re.split(" (?:to|with) ", edit)):
                for word in words.split():
                    found[row, crc32(f"{place} {side} {word}".encode()) % FEATURES] = 1
    return found


def _head(width: int) -> nn.Linear:
    """It begins with hardly any word being likely, as is true of most."""
    head = nn.Linear(width, FEATURES)
    nn.init.constant_(head.bias, -6.0)
    return head


def _surprise(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()


def _right(logits: Tensor, wanted: Tensor) -> Tensor:
    """Share of the rows with no word too much and none missing."""
    return ((logits > 0) == (wanted > 0)).all(1).float().mean()
