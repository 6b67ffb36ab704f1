"""Training batches: each is a pure function of the seed and the step, so a resumed run sees what it would have seen."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from embedded_model.data import Photograph, sample_crops
from embedded_model.edits import EDITS, IDENTITY, Picture, apply
from embedded_model.wordings import train_prompt, unknown_prompt

EDIT_NAMES = tuple(EDITS)
EDIT_WEIGHTS = {"blur": 4, "invert": 2, "high_contrast": 2, "saturated": 2}  # drawn more often: they are learned last
EMPTY_PROBABILITY = 0.04  # the empty prompt is the identity, from which guidance extrapolates
UNKNOWN_PROBABILITY = 0.09
COMBINATION_PROBABILITY = 0.08
FULL_EDIT_PROBABILITY = 0.7  # the noisy latents already show the whole edit, as when sampling starts from noise
ALMOST_FULL = 0.85  # what shows at least so much of the edit is to be completed: sampling then corrects its own errors
NO_EDIT_PROBABILITY = 0.12  # they show the source, as on the first step of a partial strength
PURE_NOISE_PROBABILITY = 0.1
TEXT_MULTIPLE = 16  # few different lengths, so that few graphs are compiled
LARGE_CROP_EVERY = 6  # one step in so many has crops of twice the side, so that borders and context vary


@dataclass(frozen=True)
class Batch:
    """Pictures are (B, 3, H, W) in [-1, 1]; ids and mask (B, L); labels (B, edits).

    sigma (B,): the noise level. shown (B,): the fraction of the edit in the noisy latents; asked (B,): the fraction on
    whose path they are said to lie.
    """

    source: Tensor
    edited: Tensor
    ids: Tensor
    mask: Tensor
    sigma: Tensor
    shown: Tensor
    asked: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


class EditBatches(Dataset[Batch]):
    """The batch of step i is item i."""

    def __init__(
        self, photographs: list[Photograph], tokenizer: PreTrainedTokenizerFast, size: int, side_px: int, seed: int
    ) -> None:
        self.photographs, self.tokenizer = photographs, tokenizer
        self.size, self.side_px, self.seed = size, side_px, seed

    def __getitem__(self, step: int) -> Batch:
        rng = random.Random(f"{self.seed}:{step}")
        large = step % LARGE_CROP_EVERY == LARGE_CROP_EVERY - 1
        size, side_px = (self.size // 4, self.side_px * 2) if large else (self.size, self.side_px)
        source = sample_crops(self.photographs, size, side_px, rng)
        requests = [_request(rng) for _ in range(size)]
        edited = _apply_all(source, [edits for edits, _ in requests])
        prompts = [prompt for _, prompt in requests]
        tokens = self.tokenizer(
            prompts, padding=True, pad_to_multiple_of=TEXT_MULTIPLE, truncation=True, return_tensors="pt"
        )
        labels = torch.tensor([[name in edits for name in EDIT_NAMES] for edits, _ in requests], dtype=torch.float32)
        sigma, shown, asked = zip(*(_noise_level_and_fractions(rng) for _ in requests), strict=True)
        return Batch(
            source=_to_tensor(source),
            edited=_to_tensor(edited),
            ids=tokens["input_ids"],  # type: ignore[arg-type]
            mask=tokens["attention_mask"],  # type: ignore[arg-type]
            sigma=torch.tensor(sigma),
            shown=torch.tensor(shown),
            asked=torch.tensor(asked),
            labels=labels,
        )


def _request(rng: random.Random) -> tuple[tuple[str, ...], str]:
    """The edits of one pair, and an instruction that asks for them."""
    kind = rng.random()
    if kind < EMPTY_PROBABILITY:
        return (IDENTITY,), ""
    if kind < EMPTY_PROBABILITY + UNKNOWN_PROBABILITY:
        return (IDENTITY,), unknown_prompt(rng)
    if kind < EMPTY_PROBABILITY + UNKNOWN_PROBABILITY + COMBINATION_PROBABILITY:
        edits = tuple(rng.sample(EDIT_NAMES[1:], 2))
    else:
        edits = tuple(rng.choices(EDIT_NAMES, [EDIT_WEIGHTS.get(name, 1) for name in EDIT_NAMES]))
    return edits, train_prompt(edits, rng)


def _apply_all(source: Picture, edits: list[tuple[str, ...]]) -> Picture:
    edited = np.empty_like(source)
    for names in set(edits):
        rows = [i for i, row_names in enumerate(edits) if row_names == names]
        edited[rows] = apply(source[rows], names)
    return edited


def _noise_level_and_fractions(rng: random.Random) -> tuple[float, float, float]:
    """sigma, shown, asked."""
    sigma = 1.0 if rng.random() < PURE_NOISE_PROBABILITY else rng.uniform(0.02, 1.0)
    kind = rng.random()
    if kind < FULL_EDIT_PROBABILITY:
        return sigma, rng.choice((1.0, rng.uniform(ALMOST_FULL, 1.0))), 1.0
    fraction = 0.0 if kind < FULL_EDIT_PROBABILITY + NO_EDIT_PROBABILITY else rng.uniform(0.0, ALMOST_FULL)
    return sigma, fraction, fraction


def _to_tensor(pictures: Picture) -> Tensor:
    """(B, H, W, 3) in [0, 1] to (B, 3, H, W) in [-1, 1]; the memory stays channels-last."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) * 2 - 1
