"""A tiny, real family: a small torch network that denoises, with hooks to stop it between steps and to make it fail.

Rows are named `request_id:seed`; `calls` holds the names of the rows of every denoiser call, filler included, and
`made` tells which rows something still holds on to.
"""

import hashlib
import math
import queue
import re
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from serve.backends.base import Component, device_faults
from serve.families.base import Inputs, Sample, TextEncoding
from serve.types import Axis, ComponentSpec, EditJob, Pixels, TensorSpec

PATCH = 2
CHANNELS = 3 * PATCH * PATCH
TEXT = 8
MAX_WORDS = 16
TIMEOUT_S = 60.0

Where = Literal["encode_text", "begin", "step_inputs", "denoise", "nan", "advance", "decode"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with jobs of this prompt, and at which step where it is one of a step."""

    prompt: str
    where: Where
    error: BaseException = field(default_factory=lambda: RuntimeError("secret detail"))
    step: int = 0


class Gate:
    """Stops the engine's thread each time it arrives, until the test lets it on."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        self._permits = threading.Semaphore(0)
        self._opened = threading.Event()

    def arrive(self, names: tuple[str, ...]) -> None:
        self._arrived.put(names)
        if not self._opened.is_set():
            assert self._permits.acquire(timeout=TIMEOUT_S)

    def wait(self) -> tuple[str, ...]:
        """Names of the rows (or the prompt) that have arrived and wait."""
        return self._arrived.get(timeout=TIMEOUT_S)

    def release(self) -> None:
        self._permits.release()

    def step(self) -> tuple[str, ...]:
        """Let the one that waits go on, and wait for the next."""
        self.release()
        return self.wait()

    def open(self) -> None:
        """Stop nobody from now on."""
        self._opened.set()
        self._permits.release()


class FakeDenoiser:
    """Real matrix products, large enough that their bytes depend on the batch's size.

    Faults of the device are raised as the real backends raise them.
    """

    spec: ComponentSpec = ComponentSpec(
        name="denoiser",
        inputs=(
            TensorSpec("latents", "float32", ("batch", "tokens", CHANNELS)),
            TensorSpec("source", "float32", ("batch", "tokens", CHANNELS)),
            TensorSpec("text", "float32", ("batch", TEXT)),
            TensorSpec("sigma", "float32", ("batch",)),
            TensorSpec("row", "int64", ("batch",)),
        ),
        outputs=(TensorSpec("velocity", "float32", ("batch", "tokens", CHANNELS)),),
        axes=(Axis("batch", 1, 4, 64), Axis("tokens", 1, 16, 4096)),
    )

    def __init__(self, before_call: Callable[[list[int]], None]) -> None:
        generator = torch.Generator().manual_seed(0)
        self._into = torch.randn(2 * CHANNELS + TEXT + 1, 256, generator=generator) / 8
        self._text = torch.randn(TEXT, 256, generator=generator)
        self._out = torch.randn(256, CHANNELS, generator=generator) / 16
        self._before_call = before_call

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert list(inputs) == [tensor.name for tensor in self.spec.inputs]
        with device_faults(self.spec.name):
            self._before_call(inputs["row"].tolist())
        tokens = inputs["latents"].shape[1]
        text = inputs["text"][:, None].expand(-1, tokens, -1)
        sigma = inputs["sigma"][:, None, None].expand(-1, tokens, 1)
        features = torch.cat([inputs["latents"], inputs["source"], text, sigma], dim=-1)
        hidden = torch.tanh(features @ self._into + (inputs["text"] @ self._text)[:, None])
        return {"velocity": hidden @ self._out}


class FakeFamily:
    """Flow matching by Euler steps over `FakeDenoiser`; guidance above 1 makes two passes a step.

    Samples share a key exactly when their pictures have the same size. A job of 0 steps begins with none remaining.
    Of a prompt, `MAX_WORDS` words are read. The text encoder is a component; the decoder works on plain tensors.
    """

    def __init__(self, *faults: Fault, step_gate: Gate | None = None, encode_gate: Gate | None = None) -> None:
        self.denoiser: Component = FakeDenoiser(self._before_call)
        self.calls: list[tuple[str, ...]] = []
        self.encoded_prompts: list[str] = []
        self.encoded_images = 0
        self.final_latents: dict[str, bytes] = {}
        self.decodes = 0
        self.decodes_before_call: list[int] = []
        self.made: list[weakref.ref[torch.Tensor]] = []
        self._faults = faults
        self._step_gate = step_gate
        self._encode_gate = encode_gate
        self._jobs: list[tuple[EditJob, int]] = []
        self._steps: dict[int, int] = {}

    def encode_text(self, prompt: str) -> TextEncoding:
        if self._encode_gate:
            self._encode_gate.arrive((prompt,))
        with device_faults("text_encoder"):
            self._fail_at("encode_text", prompt)
        self.encoded_prompts.append(prompt)
        words = list(re.finditer(r"\S+", prompt))[:MAX_WORDS]
        read = prompt[: words[-1].end()] if words else ""
        digest = np.frombuffer(hashlib.sha256(read.encode()).digest()[:TEXT], np.uint8)
        tensor = torch.from_numpy(digest.astype(np.float32) / 127.5 - 1)[None]
        return TextEncoding({"text": tensor}, len(words), cut_to=None if read == prompt.rstrip() else read)

    def encode_image(self, pixels: Pixels) -> torch.Tensor:
        self.encoded_images += 1
        height, width, _ = pixels.shape
        cells = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1)
        cells = cells.reshape(height // PATCH, PATCH, width // PATCH, PATCH, 3)
        return cells.permute(0, 2, 1, 3, 4).reshape(1, -1, CHANNELS).contiguous()

    def text_prompts(self, job: EditJob) -> tuple[str, ...]:
        return ("", job.prompt) if job.guidance > 1 else (job.prompt,)

    def begin(self, job: EditJob, texts: Sequence[TextEncoding], images: Sequence[torch.Tensor], seed: int) -> Sample:
        self._fail_at("begin", job.prompt)
        row = torch.tensor([len(self._jobs)])
        self._jobs.append((job, seed))
        canvas = images[0]
        source = canvas + sum(image.mean() for image in images[1:])
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(canvas.shape, generator=generator)
        ticks = max(1, math.floor(job.steps * job.strength)) if job.steps else 0
        latents = (1 - job.strength) * canvas + job.strength * noise
        self.made.append(weakref.ref(row))
        height, width, _ = job.canvas.shape
        return Sample(
            latents=latents,
            sigmas=torch.linspace(job.strength, 0, ticks + 1),
            passes=tuple({"source": source, "text": text.tensors["text"], "row": row} for text in texts),
            guidance=job.guidance,
            size=(width, height),
            key=("fake", width, height),
        )

    def step_inputs(self, sample: Sample) -> tuple[Inputs, ...]:
        row = _row(sample)
        self._steps[row] = sample.step
        self._fail_at("step_inputs", self._jobs[row][0].prompt, sample.step)
        spoilt = any(self._faults_at("nan", self._jobs[row][0].prompt, sample.step))
        latents = torch.full_like(sample.latents, math.nan) if spoilt else sample.latents
        sigma = sample.sigmas[sample.step].reshape(1)
        return tuple(
            {"latents": latents, "source": one["source"], "text": one["text"], "sigma": sigma, "row": one["row"]}
            for one in sample.passes
        )

    def advance(self, sample: Sample, outputs: Sequence[torch.Tensor]) -> None:
        self._fail_at("advance", self._jobs[_row(sample)][0].prompt, sample.step)
        velocity = outputs[0]
        if len(outputs) == 2:
            velocity = outputs[0] + sample.guidance * (outputs[1] - outputs[0])
        sigma, sigma_next = sample.sigmas[sample.step], sample.sigmas[sample.step + 1]
        sample.latents = sample.latents + (sigma_next - sigma) * velocity
        sample.step += 1

    def decode(self, sample: Sample) -> Pixels:
        self.decodes += 1
        row = _row(sample)
        self._fail_at("decode", self._jobs[row][0].prompt)
        self.final_latents[self._name(row)] = sample.latents.numpy().tobytes()
        width, height = sample.size
        cells = sample.latents.reshape(height // PATCH, width // PATCH, PATCH, PATCH, 3)
        pixels = cells.permute(0, 2, 1, 3, 4).reshape(height, width, 3)
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()

    def tokens(self, images: Sequence[torch.Tensor]) -> int:
        return sum(image.shape[1] for image in images)

    def _before_call(self, rows: list[int]) -> None:
        names = tuple(self._name(row) for row in rows)
        self.calls.append(names)
        self.decodes_before_call.append(self.decodes)
        if self._step_gate:
            self._step_gate.arrive(names)
        for row in rows:
            self._fail_at("denoise", self._jobs[row][0].prompt, self._steps[row])

    def _name(self, row: int) -> str:
        job, seed = self._jobs[row]
        return f"{job.request_id}:{seed}"

    def _faults_at(self, where: Where, prompt: str, step: int = 0) -> list[Fault]:
        return [fault for fault in self._faults if (fault.where, fault.prompt, fault.step) == (where, prompt, step)]

    def _fail_at(self, where: Where, prompt: str, step: int = 0) -> None:
        for fault in self._faults_at(where, prompt, step):
            raise fault.error


def _row(sample: Sample) -> int:
    return int(sample.passes[0]["row"].item())


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
    )


def drawn_alone(job: EditJob, seed: int, bucket: int) -> tuple[Pixels, bytes]:
    """The picture and last latents of one row by a plain loop; each call is filled with copies to `bucket` passes."""
    family = FakeFamily()
    texts = [family.encode_text(prompt) for prompt in family.text_prompts(job)]
    images = [family.encode_image(pixels) for pixels in (job.canvas, *job.references)]
    sample = family.begin(job, texts, images, seed)
    while sample.remaining:
        inputs = family.step_inputs(sample)
        copies = bucket // len(inputs) or 1
        batch = {name: torch.cat([one[name] for one in inputs] * copies) for name in inputs[0]}
        velocity = family.denoiser(batch)["velocity"]
        family.advance(sample, [velocity[index : index + 1] for index in range(len(inputs))])
    return family.decode(sample), sample.latents.numpy().tobytes()
