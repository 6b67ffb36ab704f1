"""Batches of edits: all groups of tasks mixed by their weights, in one shape."""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from embedded_model.mini.flow import MAX_GUIDANCE, guided
from embedded_model.mini.mask_groups import IN_THE_MASK
from embedded_model.mini.network import Tokenizers
from embedded_model.mini.pairs import GROUPS, Pairs, joined
from embedded_model.mini.photographs import Photographs
from embedded_model.mini.seeds import seed_of
from embedded_model.mini.tones import EXAGGERATED

TWO_IMAGES = "two_images"
MASKED = "masked"
"""The group that is edited under a mask, which the network is not told: sampling keeps what is outside."""
GRADUAL = frozenset({"tones", "combinations", "styles", "weather", MASKED})
"""Groups of which a part of an edit makes sense: half a sepia does, half a mirror does not."""
SHOUTED, CAPITALISED = 0.03, 0.3
_ONE_IMAGE = tuple(zip(*((name, group.weight) for name, group in GROUPS.items() if name != TWO_IMAGES), strict=True))
"""Names and weights of the groups with one image."""
TOKEN = 16
"""Side of the square of pixels that is one token of the transformer."""
_UNSEEN = 16
"""Side of pictures that are made for their instructions alone, in pixels."""
_CHANGE_COUNTS = (4.0, 32.0)
"""The least and the most that an error counts where a picture changes; between them, as much as all that stays."""
_NO_GUIDANCE = 0.6
"""Share of rows whose guidance is 1."""


@dataclass(frozen=True)
class Format:
    """Height and width in pixels, how many rows a batch of it has, and how often it comes.

    stretch: of how many times as large a picture it has the places.
    """

    size: tuple[int, int]
    rows: int
    weight: float
    stretch: int = 1


@dataclass(frozen=True)
class Batch:
    """Pictures (B, 3, H, W) in [0, 1]; reference: a second picture, or None. ids of both tokenizers (B, TEXT_TOKENS).

    guidance (B,). gradual (B,) bool: whether a part of the edit makes sense.
    counted (B, 1, H, W): how much an error counts, next to others of its row. groups: of each row, the group's name.
    stretch: of how many times as large pictures they have the places.
    """

    source: Tensor
    target: Tensor
    reference: Tensor | None
    clip_ids: Tensor
    t5_ids: Tensor
    guidance: Tensor
    gradual: Tensor
    counted: Tensor
    groups: tuple[str, ...]
    stretch: int


class EditBatches:
    """Makes any batch from its number alone."""

    def __init__(
        self,
        photographs: Photographs,
        tokenizers: Tokenizers,
        formats: tuple[Format, ...],
        device: torch.device,
        seed: int,
    ) -> None:
        self._photographs, self._tokenizers, self._formats = photographs, tokenizers, formats
        self._device, self._seed = device, seed

    def __getitem__(self, number: int) -> Batch:
        words = random.Random(seed_of("words", self._seed + number))
        generator = torch.Generator(self._device).manual_seed(seed_of("pairs", self._seed + number))
        (shape,) = words.choices(self._formats, [shape.weight for shape in self._formats])
        two_images = words.random() < GROUPS[TWO_IMAGES].weight
        rows = max(1, shape.rows * 2 // 3) if two_images else shape.rows
        crops = self._photographs.crops(rows, shape.size, self._seed + number)
        chosen = [TWO_IMAGES] * rows if two_images else words.choices(*_ONE_IMAGE, k=rows)
        return self._complete(chosen, crops, generator, words, shape.stretch)

    def _complete(
        self, chosen: list[str], crops: Tensor, generator: torch.Generator, words: random.Random, stretch: int
    ) -> Batch:
        """chosen: each row's group."""
        pairs, groups = _made(chosen, crops, generator, words)
        gradual = torch.tensor([group in GRADUAL for group in groups], device=self._device)
        drawn = torch.rand((2, len(gradual)), generator=generator, device=self._device)
        guidance = torch.where(drawn[0] < _NO_GUIDANCE, 1.0, 1 + (MAX_GUIDANCE - 1) * drawn[1])
        more = [name.removesuffix(IN_THE_MASK) in EXAGGERATED for name in pairs.edits]
        target = guided(pairs.source, pairs.target, torch.where(guidance.new_tensor(more).bool(), guidance, 1.0))
        clip_ids, t5_ids = self._tokenizers.ids([_cased(text, words) for text in pairs.instructions])
        return Batch(
            source=pairs.source,
            target=target,
            reference=pairs.reference,
            clip_ids=clip_ids.to(self._device),
            t5_ids=t5_ids.to(self._device),
            guidance=guidance,
            gradual=gradual,
            counted=_counted(pairs),
            groups=tuple(groups),
            stretch=stretch,
        )


def _made(
    chosen: list[str], crops: Tensor, generator: torch.Generator, words: random.Random
) -> tuple[Pairs, list[str]]:
    """Rows of the chosen groups, each group's together, and the group of each. Only masks of MASKED are kept."""
    parts: list[Pairs] = []
    groups: list[str] = []
    for name in dict.fromkeys(chosen):
        rows = [row for row, other in enumerate(chosen) if other == name]
        made = GROUPS[name].make(crops[rows], generator, words)
        mask = made.mask if name == MASKED and made.mask is not None else torch.ones_like(made.source[:, :1])
        parts.append(replace(made, mask=mask))
        groups += [name] * len(rows)
    return joined(parts), groups


def _counted(pairs: Pairs) -> Tensor:
    """(B, 1, H, W): nothing outside a mask, which is not the network's to keep."""
    changed = (pairs.source != pairs.target).any(1, keepdim=True)
    share = changed.float().mean((2, 3), keepdim=True)
    counted = torch.where(changed, ((1 - share) / share).clamp(*_CHANGE_COUNTS), 1.0)
    return counted if pairs.mask is None else counted * _whole_tokens(pairs.mask)


def _whole_tokens(mask: Tensor) -> Tensor:
    """Without the parts of tokens that it holds, unless it holds no token whole."""
    whole = functional.interpolate(-functional.max_pool2d(-mask, TOKEN), scale_factor=TOKEN)
    return torch.where((whole > 0).flatten(1).any(1)[:, None, None, None], whole, mask)


def _cased(text: str, words: random.Random) -> str:
    """As people write: some begin with a capital, a few shout."""
    luck = words.random()
    if luck < SHOUTED:
        return text.upper()
    return text[:1].upper() + text[1:] if luck < SHOUTED + CAPITALISED else text


def asked(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """About as many instructions, each with the name of its edit, of all groups by their weights; pictures that nobody
    sees are made for them."""
    words, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    found: list[tuple[str, str]] = []
    for group in GROUPS.values():
        unseen = torch.zeros(max(1, round(count * group.weight)), 3, _UNSEEN, _UNSEEN)
        pairs = group.make(unseen, generator, words)
        found += zip(pairs.instructions, pairs.edits, strict=True)
    return [(_cased(text, words), name) for text, name in found]


def sentences(count: int, seed: int = 0) -> list[str]:
    return [text for text, _ in asked(count, seed)]
