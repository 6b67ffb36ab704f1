"""What a model family says to the engine: how a job becomes rows, what a step feeds the denoiser, what its answer does.

The engine owns time, batches and cancellation; a family owns the mathematics of one row and knows of no other row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from serve.backends.base import Component
from serve.types import EditJob, Pixels

Inputs = Mapping[str, torch.Tensor]
"""Named tensors of batch one, as a component takes them."""


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """A prompt as the denoiser reads it: named tensors of batch one. tokens: how many were read.

    cut_to: where the prompt is longer than the model reads, its beginning that the tensors are of; None where all of it
    was read. As a prompt of its own, that beginning has the same tensors.
    """

    tensors: Inputs
    tokens: int
    cut_to: str | None


@dataclass(frozen=True, slots=True)
class Blend:
    """What keeps a masked row to its source between steps.

    source, noise: like the row's latents. mask: broadcastable to them, 1 where the model edits.
    """

    source: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(slots=True)
class Sample:
    """One output picture in progress. Only its family changes it, in `advance`.

    latents: (1, ...) in the family's own layout, at the noise level `sigmas[step]`. sigmas: (ticks + 1,) float32,
    falling to 0. passes: for each pass that a step makes through the denoiser (two with classifier-free guidance)
    the inputs that stay the same over the steps. guidance: how the passes combine. size: (width, height) drawn.
    key: samples may share a pass of the denoiser exactly when their keys are equal.
    """

    latents: torch.Tensor
    sigmas: torch.Tensor
    passes: tuple[Inputs, ...]
    guidance: float
    size: tuple[int, int]
    key: tuple[object, ...]
    blend: Blend | None = None
    step: int = 0

    @property
    def remaining(self) -> int:
        """Steps that are still to run."""
        return len(self.sigmas) - 1 - self.step


class Family(Protocol):
    """A loaded model. Every tensor is of batch one and every method runs on the engine's thread."""

    denoiser: Component

    def encode_text(self, prompt: str) -> TextEncoding:
        """The conditioning of a prompt. Depends on nothing else, so that the engine may cache it."""
        ...

    def encode_image(self, pixels: Pixels) -> torch.Tensor:
        """(H, W, 3) pixels to latents (1, ...), without random numbers. Depends on nothing else; may be cached."""
        ...

    def text_prompts(self, job: EditJob) -> tuple[str, ...]:
        """The prompts that the job needs encoded: its own, and the unconditional one where guidance asks for it."""
        ...

    def begin(self, job: EditJob, texts: Sequence[TextEncoding], images: Sequence[torch.Tensor], seed: int) -> Sample:
        """A row for one output. texts: of `text_prompts`. images: latents of the canvas, then of the references.

        All random numbers come from a generator of this seed. A strength of 0 is not a row: nothing is left to run.
        """
        ...

    def step_inputs(self, sample: Sample) -> tuple[Inputs, ...]:
        """Inputs of the denoiser for the next step: one of batch one for each pass."""
        ...

    def advance(self, sample: Sample, outputs: Sequence[torch.Tensor]) -> None:
        """Apply the denoiser's answers, (1, ...) for each pass, to the sample and move it one step on."""
        ...

    def decode(self, sample: Sample) -> Pixels:
        """The finished sample's picture (height, width, 3)."""
        ...

    def tokens(self, images: Sequence[torch.Tensor]) -> int:
        """Latent tokens of these encoded images, as usage counts them."""
        ...
