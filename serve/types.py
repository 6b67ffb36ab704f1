"""What travels inside the server: complete, validated and immutable, whatever a client may leave out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB pictures or (H, W) masks, 0 to 255."""

Picture = str | bytes
"""As a client sent it: base64 text, plain or in a data URL, or the bytes of a file."""

DType = Literal["float32", "float16", "bfloat16", "int64", "bool"]
PictureFormat = Literal["png", "jpeg", "webp"]
OutputFormat = PictureFormat
Priority = Literal["low", "normal", "high"]
Size = tuple[int, int]
"""(width, height) in pixels, as in the API's `"512x512"`."""


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body. images: in their order. texts: of the other fields, by name."""

    images: tuple[Picture, ...]
    mask: Picture | None
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EditJob:
    """One request past the door: `len(seeds)` output pictures of one source and one instruction.

    canvas: (H, W, 3), the first source at the size that the model draws. references: further pictures, each (h, w, 3)
    at the model's reference resolution. mask: (H, W) at the canvas' size, 255 where the model edits, or None for the
    whole canvas. strength 0 to 1; guidance in the model's own scale; steps of the full schedule, of which `strength`
    runs a part. seeds: one per output, 0 to 2**64 - 1. priority: against the other jobs of the model. previews: that a
    watcher gets of each output on the way, at the most.
    """

    request_id: str
    prompt: str
    canvas: Pixels
    references: tuple[Pixels, ...]
    mask: Pixels | None
    seeds: tuple[int, ...]
    steps: int
    strength: float
    guidance: float
    priority: Priority = "normal"
    previews: int = 0


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a job stood when the engine took it. position: in the queue, the next to be begun is 1; 0: it ran at once.

    seconds: until its end, as estimated then.
    """

    position: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A row of a job has run a step. image: index of its output. step: that it has done, of total."""

    image: int
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What an output will look like, as the model takes it for after some of its steps.

    image: index of the output. index: of its previews, from 0 on. pixels: (h, w, 3) in the output's aspect, and mostly
    smaller.
    """

    image: int
    index: int
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Usage:
    """The model's own tokens: text tokens read, latent tokens of the sources read, latent tokens drawn."""

    text_tokens: int
    image_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class EditResult:
    """images: one (H, W, 3) picture a seed, in the seeds' order. timings_ms: queue, encode, denoise and vae.

    revised_prompt: the prompt that ran, where it is not the job's.
    """

    images: tuple[Pixels, ...]
    usage: Usage
    timings_ms: Mapping[str, float]
    revised_prompt: str | None
    place: QueuePlace = QueuePlace(0, 0.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension that varies between calls: its name and the range that an engine is compiled for.

    of: where its length follows from other axes of the component, their names: ratio times their sum, plus `plus`. An
    axis that only outputs have must say so, and may build only on axes that inputs have. param: the field of a request
    that decides the length: `size`, or `images` of what is read.
    """

    name: str
    min: int
    opt: int
    max: int
    of: tuple[str, ...] = ()
    ratio: Fraction = Fraction(1)
    plus: int = 0
    param: Literal["size", "images"] = "size"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """name, element type and shape of one tensor; a string in `shape` names an `Axis` of the component.

    count: of an input of whole numbers, how many different ones it takes, from 0 on. fixed: `dtype` is the same in
    whichever precision the component computes.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    count: int = 2
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """One neural component of a family, declared once: export, engine profiles and run-time checks read it from here.

    The first axis of every input and output is the batch, named `batch`. code: a fingerprint of what computes it, so
    that an engine of code that has changed is told.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...] = field(default=())
    code: str = ""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the API's front needs to know of a model without loading it; a family's row in the catalog.

    sizes: output sizes as (width, height), all that the contract names. draw_min and draw_max: shortest and longest
    side in pixels that the model draws well; outputs below are drawn at draw_min and reduced. multiple: both sides of
    a drawn picture are multiples of it. max_images: sources and references together. reference_pixels: the area that
    references are scaled to. has_guidance is False for a model distilled to none.
    """

    default_steps: int
    default_strength: float
    default_guidance: float
    has_guidance: bool
    max_images: int
    reference_pixels: int
    draw_min: int
    draw_max: int
    multiple: int
