"""Prompts to the token ids of a fixed length, and what of a prompt those ids are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """ids, mask: (1, length) int64; the mask is 1 for the prompt's own tokens and marks, 0 for padding.

    end: characters of the prompt up to the last one read. cut: whether there were more tokens than the length.
    """

    ids: Tensor
    mask: Tensor
    end: int
    cut: bool

    @property
    def count(self) -> int:
        return int(self.mask.sum())


def tokenize(tokenizer: Any, prompt: str, length: int) -> Tokens:
    """Padded to `length` tokens, or cut to it. tokenizer: of transformers, with its Rust backend."""
    encoded = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    (encoding,) = encoded.encodings
    ends = [end for (_, end), mark in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not mark]
    return Tokens(encoded["input_ids"], encoded["attention_mask"], max(ends, default=0), bool(encoding.overflowing))


def part_read(prompt: str, tokenize: Callable[[str], Sequence[Tokens]]) -> str | None:
    """The beginning of the prompt that has the same tokens as all of it; None where no shorter one has.

    tokenize: by each encoder of the model. The last token read may stand for half a character, or a text's end may
    change the tokens before it (a contraction, a combining accent), so a beginning is tried before it is believed.
    """
    whole = tokenize(prompt)
    for end in _ends(max(tokens.end for tokens in whole), len(prompt)):
        if all(map(_equal, tokenize(prompt[:end]), whole)):
            return prompt[:end]
    return None


def _ends(first: int, total: int) -> Iterator[int]:
    """first and then 1, 2, 4, ... characters further, below total: a prompt may be long, and tries are not free."""
    yield from (end for end in (first, *(first + 2**i for i in range(total.bit_length()))) if end < total)


def _equal(one: Tokens, other: Tokens) -> bool:
    return torch.equal(one.ids, other.ids) and torch.equal(one.mask, other.mask)
