"""A tiny, real family: small torch networks, with hooks to stop it in its calls and to make it fail.

Rows are named `request_id:seed`, texts by their prompt, pictures by `picture_name`. `log` holds every call of a
component with the names of its rows, filler included; `made` tells which rows something still holds on to.
"""

import hashlib
import math
import re
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from serve.backends.base import Component
from serve.families.base import Call, Plan, Sample, Stage, TextEncoding
from serve.types import ComponentSpec, EditJob, Pixels, Priority, Size
from tests import fake_components
from tests.fake_backend import FakeBackend
from tests.fake_components import CHANNELS, PATCH, TEXT, WatchedComponent
from tests.gates import Gate
from tests.stages import run_alone

MAX_WORDS = 16

ComponentName = Literal["text_encoder", "image_encoder", "denoiser", "decoder"]
Where = Literal[
    "encode_text",
    "text_encoder",
    "encode_image",
    "image_encoder",
    "begin",
    "step",
    "denoiser",
    "stepped",
    "preview",
    "decode",
    "decoder",
    "nan in text_encoder",
    "nan in denoiser",
    "nan in decoder",
]
"""A component's name: in its call. step: before that; stepped: after it."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with jobs of this prompt (or with the picture of this name), and at which step of theirs.

    times: how often, until it goes well.
    """

    name: str
    where: Where
    error: BaseException = field(default_factory=lambda: RuntimeError("secret detail"))
    step: int = 0
    times: float = math.inf


class FakeFamily:
    """Flow matching by Euler steps; guidance above 1 makes two passes a step.

    Rows share a key exactly when their pictures have the same size. A job of 0 steps has nothing to run. Of a prompt,
    `MAX_WORDS` words are read. A gate stops every call of its component.
    """

    def __init__(
        self,
        *faults: Fault,
        backend: FakeBackend | None = None,
        step_gate: Gate | None = None,
        encode_gate: Gate | None = None,
        decode_gate: Gate | None = None,
    ) -> None:
        self.backend = backend or FakeBackend()
        self.log: list[tuple[ComponentName, tuple[str, ...]]] = []
        self.final_latents: dict[str, bytes] = {}
        self.made: list[weakref.ref[torch.Tensor]] = []
        self._faults = faults
        self._raised: Counter[Fault] = Counter()
        self._gates = {"text_encoder": encode_gate, "denoiser": step_gate, "decoder": decode_gate}
        self._texts: list[str] = []
        self._pictures: list[str] = []
        self._jobs: list[tuple[EditJob, int]] = []
        self._stepping: dict[int, int] = {}
        self.text_encoder = self._loaded("text_encoder", fake_components.TEXT_ENCODER, fake_components.TextEncoder)
        self.image_encoder = self._loaded("image_encoder", fake_components.IMAGE_ENCODER, fake_components.ImageEncoder)
        self.denoiser: Component = self._loaded("denoiser", fake_components.DENOISER, fake_components.Denoiser)
        self.decoder = self._loaded("decoder", fake_components.DECODER, fake_components.Decoder)

    def calls(self, component: ComponentName) -> list[tuple[str, ...]]:
        """The names in each of its calls, those that failed included."""
        return [names for name, names in self.log if name == component]

    def decodes_before_steps(self) -> list[int]:
        """For each call of the denoiser, how many rows had been decoded by then."""
        decoded = 0
        counts: list[int] = []
        for component, names in self.log:
            decoded += len(names) * (component == "decoder")
            counts += [decoded] * (component == "denoiser")
        return counts

    def plan(self, job: EditJob) -> Plan:
        height, width, _ = job.canvas.shape
        steps = max(1, math.floor(job.steps * job.strength)) if job.steps else 0
        cells = (height // PATCH) * (width // PATCH)
        return Plan(("fake", width, height), steps, passes=len(self.text_prompts(job)), tokens=cells)

    def text_prompts(self, job: EditJob) -> tuple[str, ...]:
        return ("", job.prompt) if job.guidance > 1 else (job.prompt,)

    def encode_text(self, prompt: str) -> Stage[TextEncoding]:
        self._fail_at("encode_text", prompt)
        words = list(re.finditer(r"\S+", prompt))[:MAX_WORDS]
        read = prompt[: words[-1].end()] if words else ""
        digest = np.frombuffer(hashlib.sha256(read.encode()).digest()[:TEXT], np.uint8)
        tensor = torch.from_numpy(digest.astype(np.float32) / 127.5 - 1)[None]
        spoilt = self._spoilt("nan in text_encoder", prompt, tensor)
        (answer,) = yield (Call(self.text_encoder, {"words": spoilt, "who": _name_in(self._texts, prompt)}),)
        return TextEncoding(answer, len(words), cut_to=None if read == prompt.rstrip() else read)

    def encode_image(self, pixels: Pixels) -> Stage[torch.Tensor]:
        name = picture_name(pixels)
        self._fail_at("encode_image", name)
        height, width, _ = pixels.shape
        cells = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)
        cells = cells.reshape(height // PATCH, PATCH, width // PATCH, PATCH, 3)
        cells = cells.permute(0, 2, 1, 3, 4).reshape(1, -1, CHANNELS).contiguous()
        (answer,) = yield (Call(self.image_encoder, {"cells": cells, "who": _name_in(self._pictures, name)}),)
        return answer["latents"]

    def begin(self, job: EditJob, texts: Sequence[TextEncoding], images: Sequence[torch.Tensor], seed: int) -> Sample:
        self._fail_at("begin", job.prompt)
        row = torch.tensor([len(self._jobs)])
        self._jobs.append((job, seed))
        self.made.append(weakref.ref(row))
        canvas = images[0]
        source = canvas + sum(image.mean() for image in images[1:])
        noise = torch.randn(canvas.shape, generator=torch.Generator().manual_seed(seed))
        height, width, _ = job.canvas.shape
        sigmas = torch.linspace(job.strength, 0, self.plan(job).steps + 1)
        return Sample(
            latents=(1 - job.strength) * canvas + job.strength * noise,
            sigmas=sigmas,
            timesteps=sigmas,
            passes=tuple({"source": source, "text": text.tensors["text"], "who": row} for text in texts),
            guidance=job.guidance,
            size=(width, height),
        )

    def step(self, sample: Sample) -> Stage[None]:
        row = _row(sample)
        prompt = self._jobs[row][0].prompt
        self._fail_at("step", prompt, sample.done)
        sigma, sigma_next = sample.sigmas[sample.done], sample.sigmas[sample.done + 1]
        latents = self._spoilt("nan in denoiser", prompt, sample.latents, sample.done)
        changing = {"latents": latents, "sigma": sigma[None]}
        self._stepping[row] = sample.done
        try:
            answers = yield tuple(Call(self.denoiser, {**changing, **constant}) for constant in sample.passes)
        finally:
            del self._stepping[row]
        self._fail_at("stepped", prompt, sample.done)
        velocity = answers[0]["velocity"]
        if len(answers) == 2:
            velocity = velocity + sample.guidance * (answers[1]["velocity"] - velocity)
        sample.estimate = partial(torch.sub, sample.latents, sigma * velocity)
        sample.latents = sample.latents + (sigma_next - sigma) * velocity
        sample.done += 1

    def decode(self, sample: Sample) -> Stage[Pixels]:
        row = _row(sample)
        prompt = self._jobs[row][0].prompt
        self._fail_at("decode", prompt)
        self.final_latents[self._row_name(row)] = sample.latents.numpy().tobytes()
        return (yield from self._picture(sample, self._spoilt("nan in decoder", prompt, sample.latents)))

    def preview(self, sample: Sample) -> Stage[Pixels]:
        self._fail_at("preview", self._jobs[_row(sample)][0].prompt)
        assert sample.estimate is not None
        return (yield from self._picture(sample, sample.estimate()))

    def tokens(self, images: Sequence[torch.Tensor]) -> int:
        return sum(image.shape[1] for image in images)

    def lengths(self, size: Size, references: Sequence[Size]) -> dict[str, int]:
        raise NotImplementedError("its components are not compiled")

    def _picture(self, sample: Sample, latents: torch.Tensor) -> Stage[Pixels]:
        (answer,) = yield (Call(self.decoder, {"latents": latents, "who": sample.passes[0]["who"]}),)
        width, height = sample.size
        cells = answer["cells"].reshape(height // PATCH, width // PATCH, PATCH, PATCH, 3)
        pixels = cells.permute(0, 2, 1, 3, 4).reshape(height, width, 3)
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()

    def _loaded(
        self, name: ComponentName, spec: ComponentSpec, module: Callable[[], torch.nn.Module]
    ) -> WatchedComponent:
        loaded = self.backend.load(spec, lambda _: module(), Path())
        return WatchedComponent(loaded, lambda rows: self._before_call(name, rows))

    def _before_call(self, component: ComponentName, rows: list[int]) -> None:
        names = tuple(self._names(component, rows))
        self.log.append((component, names))
        if gate := self._gates.get(component):
            gate.arrive(names)
        for row, name in zip(rows, names, strict=True):
            if component == "denoiser":
                self._fail_in_denoiser(row)
            else:
                self._fail_at(component, self._jobs[row][0].prompt if component == "decoder" else name)

    def _fail_in_denoiser(self, row: int) -> None:
        """Filler is no row of the call."""
        if row in self._stepping:
            self._fail_at("denoiser", self._jobs[row][0].prompt, self._stepping[row])

    def _names(self, component: ComponentName, rows: list[int]) -> list[str]:
        known = {"text_encoder": self._texts, "image_encoder": self._pictures}.get(component)
        return [self._row_name(row) if known is None else known[row] for row in rows]

    def _row_name(self, row: int) -> str:
        job, seed = self._jobs[row]
        return f"{job.request_id}:{seed}"

    def _happens(self, where: Where, name: str, step: int) -> list[Fault]:
        faults = [fault for fault in self._faults if (fault.where, fault.name, fault.step) == (where, name, step)]
        self._raised.update(faults)
        return [fault for fault in faults if self._raised[fault] <= fault.times]

    def _fail_at(self, where: Where, name: str, step: int = 0) -> None:
        for fault in self._happens(where, name, step):
            raise copy(fault.error)  # which would collect the tracebacks of all its raisings, with the tensors in them

    def _spoilt(self, where: Where, name: str, tensor: torch.Tensor, step: int = 0) -> torch.Tensor:
        return torch.full_like(tensor, math.nan) if self._happens(where, name, step) else tensor


def _row(sample: Sample) -> int:
    return int(sample.passes[0]["who"].item())


def _name_in(names: list[str], name: str) -> torch.Tensor:
    names.append(name)
    return torch.tensor([len(names) - 1])


def picture_name(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:8]


def edit_job(
    request_id: str,
    *seeds: int,
    prompt: str = "make it blue",
    steps: int = 4,
    strength: float = 1.0,
    guidance: float = 1.0,
    side: int = 8,
    picture: int = 0,
    references: int = 0,
    priority: Priority = "normal",
    previews: int = 0,
) -> EditJob:
    """A job over a random square picture. picture: which one. No seeds means seed 1."""
    pixels = np.random.default_rng(picture).integers(0, 256, (1 + references, side, side, 3), np.uint8)
    return EditJob(
        request_id=request_id,
        prompt=prompt,
        canvas=pixels[0],
        references=tuple(pixels[1:]),
        mask=None,
        seeds=seeds or (1,),
        steps=steps,
        strength=strength,
        guidance=guidance,
        priority=priority,
        previews=previews,
    )


def begun(family: FakeFamily, job: EditJob, seed: int | None = None) -> Sample:
    """A row of the job, its first unless a seed is given, from encodings made one by one."""
    texts = [run_alone(family.encode_text(prompt)) for prompt in family.text_prompts(job)]
    images = [run_alone(family.encode_image(pixels)) for pixels in (job.canvas, *job.references)]
    return family.begin(job, texts, images, job.seeds[0] if seed is None else seed)


def drawn_alone(job: EditJob, seed: int, bucket: int = 0) -> tuple[Pixels, bytes]:
    """The picture and last latents of one row by a plain loop, each call by itself.

    bucket: passes of each denoiser call, all of them copies, on a backend of a fixed size; 0 is an invariant one.
    """
    family = FakeFamily(backend=FakeBackend(batch_invariant=not bucket))
    sample = begun(family, job, seed)
    while sample.remaining:
        run_alone(family.step(sample), copies=bucket or 1)
    return run_alone(family.decode(sample)), sample.latents.numpy().tobytes()
