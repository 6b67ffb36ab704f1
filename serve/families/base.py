"""What a model family says to the engine: how a job becomes rows, what a step feeds the denoiser, what its answer does.

The engine owns time, batches and cancellation; a family owns the mathematics of one row and knows of no other row.
Work of a row that needs components is a generator, a `Stage`: it yields the calls that it needs next and is sent their
answers. The engine runs the stages of many rows side by side and merges their calls into batches.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from serve.backends.base import Component
from serve.types import EditJob, Pixels, Size

Inputs = Mapping[str, torch.Tensor]
"""Named tensors of batch one, as a component takes them."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a component for one row. inputs: nobody changes them afterwards, so that the engine may keep them."""

    component: Component
    inputs: Inputs


Stage = Generator[Sequence[Call], Sequence[Inputs], Result]
"""Yields calls that do not depend on each other, is sent the outputs of each, of batch one, and returns its result."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a row of a job will take, told without running anything.

    key: rows may share a pass of the denoiser exactly when their keys are equal; made of what JSON can hold and tuples.
    steps: that each row runs; 0 where the result is the canvas. passes: through the denoiser that a step makes (two
    with classifier-free guidance). tokens: latent tokens of a pass, by which costs of different keys are compared.
    """

    key: tuple[object, ...]
    steps: int
    passes: int
    tokens: int


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
    """One output picture in progress. Only its family changes it, in `step`.

    latents: (1, ...) in the family's own layout, at the noise level `sigmas[done]`. sigmas: (steps + 1,) float32 on
    the CPU, falling to 0. timesteps: (steps + 1, ...) the same as the denoiser is told them, on its device. passes: for
    each pass that a step makes through the denoiser (two with classifier-free guidance) the inputs that stay the same
    over the steps. guidance: how the passes combine. size: (width, height) drawn. done: steps that were run. estimate:
    gives the latents without noise, as the last step took them; None before the first.
    """

    latents: torch.Tensor
    sigmas: torch.Tensor
    timesteps: torch.Tensor
    passes: tuple[Inputs, ...]
    guidance: float
    size: tuple[int, int]
    blend: Blend | None = None
    done: int = 0
    estimate: Callable[[], torch.Tensor] | None = None

    @property
    def remaining(self) -> int:
        """Steps that are still to run."""
        return len(self.sigmas) - 1 - self.done

    @property
    def nbytes(self) -> int:
        """That it holds, what an estimate is made of included, with what it may share with other samples."""
        kept = [self.latents, *(tensor for inputs in self.passes for tensor in inputs.values())]
        if self.blend is not None:
            kept += [self.blend.source, self.blend.noise, self.blend.mask]
        return 2 * self.latents.nbytes + sum({tensor.data_ptr(): tensor.nbytes for tensor in kept}.values())


class Family(Protocol):
    """A loaded model. Every tensor is of batch one and every method runs on the engine's thread, except `plan`."""

    denoiser: Component

    def plan(self, job: EditJob) -> Plan:
        """What each row of the job will take. Runs on any thread, and costs next to nothing."""
        ...

    def text_prompts(self, job: EditJob) -> tuple[str, ...]:
        """The prompts that the job needs encoded: its own, and the unconditional one where guidance asks for it."""
        ...

    def encode_text(self, prompt: str) -> Stage[TextEncoding]:
        """The conditioning of a prompt. Depends on nothing else, so that the engine may cache it."""
        ...

    def encode_image(self, pixels: Pixels) -> Stage[torch.Tensor]:
        """(H, W, 3) pixels to latents (1, ...), without random numbers. Depends on nothing else; may be cached."""
        ...

    def begin(self, job: EditJob, texts: Sequence[TextEncoding], images: Sequence[torch.Tensor], seed: int) -> Sample:
        """A row for one output. texts: of `text_prompts`. images: latents of the canvas, then of the references.

        All random numbers come from a generator of this seed. Only for a job whose plan has steps.
        """
        ...

    def step(self, sample: Sample) -> Stage[None]:
        """Move the sample one step on."""
        ...

    def decode(self, sample: Sample) -> Stage[Pixels]:
        """The finished sample's picture (height, width, 3)."""
        ...

    def preview(self, sample: Sample) -> Stage[Pixels]:
        """What the picture will look like, from the sample's estimate: (h, w, 3) in its aspect, and cheap to make."""
        ...

    def tokens(self, images: Sequence[torch.Tensor]) -> int:
        """Latent tokens of these encoded images, as usage counts them."""
        ...

    def lengths(self, size: Size, references: Sequence[Size]) -> Mapping[str, int]:
        """How long the components' axes are, all but the batch, where a picture of this size is drawn.

        references: the sizes of the pictures that are read beside the canvas.
        """
        ...
