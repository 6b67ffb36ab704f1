"""The small model that comes with the project: a U-Net over the folded pixels of the picture, for two CPU cores.

Its latents are the RGB picture in [-1, 1], pixel-unshuffled by the patch size that the checkpoint states, so that no
autoencoder is needed. The network predicts the clean picture, from which the flow's velocity follows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from serve.backends.base import Backend
from serve.backends.checks import name_of
from serve.backends.fingerprint import of_code
from serve.errors import ConfigurationError
from serve.families.base import Call, Plan, Sample, Stage, TextEncoding
from serve.families.checkpoint import load_tokenizer, load_weights, read_json, reading
from serve.families.pixel_edit_unet import PixelEditUNet, latents_to_pixels, pixels_to_latents
from serve.families.prompts import Tokens, part_read, tokenize
from serve.families.solvers import (
    Shift,
    add_noise,
    euler,
    flow_sigmas,
    guide,
    last_steps,
    steps_to_run,
    velocity_of_sample,
)
from serve.types import Axis, ComponentSpec, DType, EditJob, Pixels, Size, TensorSpec

PIPELINE = "PixelEditPipeline"
NO_PROMPT = ""


def load(weights: str, backend: Backend) -> "PixelEdit":
    """The model in the folder `weights`, in diffusers' layout. Raises ConfigurationError when it is not one."""
    folder = Path(weights)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ConfigurationError(f"weights {weights!r} is no model folder: it has no model_index.json")
    classes = read_json(index)
    if classes.get("_class_name") != PIPELINE:
        raise ConfigurationError(f"weights {weights!r} hold a {classes.get('_class_name')}, not a {PIPELINE}")
    with reading(f"weights {weights!r}"):
        return PixelEdit(folder, getattr(transformers, classes["text_encoder"][1]), backend)


class PixelEdit:
    """The family over one checkpoint. Guidance above 1 adds a pass without a prompt, which keeps the source."""

    def __init__(self, folder: Path, text_encoder_class: Any, backend: Backend) -> None:
        """text_encoder_class: of transformers. Raises KeyError and the like for what a configuration lacks."""
        config = read_json(folder / "denoiser" / "config.json")
        precision = name_of(backend.dtype)
        self._patch_size: int = config["patch_size"]
        self._text_length: int = config["text_length"]
        self._backend = backend
        self._tokenizer = load_tokenizer(transformers.AutoTokenizer, folder, "tokenizer")
        self._shift = Shift.from_config(read_json(folder / "scheduler" / "scheduler_config.json"))

        def text_encoder(dtype: torch.dtype) -> torch.nn.Module:
            encoder = load_weights(text_encoder_class, folder, "text_encoder", dtype)
            _check_width(encoder.config.hidden_size, config["text_dim"], folder)
            return _HiddenStates(encoder)

        def denoiser(dtype: torch.dtype) -> torch.nn.Module:
            return load_weights(PixelEditUNet, folder, "denoiser", dtype)

        self._text_encoder = backend.load(
            _text_encoder_spec(config, precision, len(self._tokenizer)), text_encoder, folder / "text_encoder"
        )
        self.denoiser = backend.load(_denoiser_spec(config, precision), denoiser, folder / "denoiser")

    def plan(self, job: EditJob) -> Plan:
        height, width = job.canvas.shape[:2]
        cells = (height // self._patch_size) * (width // self._patch_size)
        passes = len(self.text_prompts(job))
        return Plan(("pixel_edit", width, height), steps_to_run(job.steps, job.strength), passes, tokens=cells)

    def text_prompts(self, job: EditJob) -> tuple[str, ...]:
        return (job.prompt, NO_PROMPT) if job.guidance > 1 else (job.prompt,)

    def encode_text(self, prompt: str) -> Stage[TextEncoding]:
        (tokens,) = self._tokens(prompt)
        mask = tokens.mask.to(self._backend.device)
        inputs = {"input_ids": tokens.ids.to(self._backend.device), "attention_mask": mask}
        (answer,) = yield (Call(self._text_encoder, inputs),)
        cut_to = part_read(prompt, self._tokens) if tokens.cut else None
        return TextEncoding({"text": answer["text"], "text_mask": mask}, tokens.count, cut_to)

    def encode_image(self, pixels: Pixels) -> Stage[torch.Tensor]:
        yield ()
        picture = torch.tensor(pixels, device=self._backend.device).permute(2, 0, 1)[None]
        latents = pixels_to_latents(picture.float() / 127.5 - 1, self._patch_size).to(self._backend.dtype)
        return latents.contiguous(memory_format=torch.channels_last)

    def begin(self, job: EditJob, texts: Sequence[TextEncoding], images: Sequence[torch.Tensor], seed: int) -> Sample:
        source = images[0]
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(source.shape, generator=generator, dtype=torch.float32).to(source)
        sigmas = last_steps(flow_sigmas(job.steps, self._shift), job.strength)
        height, width = job.canvas.shape[:2]
        return Sample(
            latents=add_noise(source, noise, sigmas[0]),
            sigmas=sigmas,
            timesteps=sigmas.to(source),
            passes=tuple({"source": source, **text.tensors} for text in texts),
            guidance=job.guidance,
            size=(width, height),
        )

    def step(self, sample: Sample) -> Stage[None]:
        sigma, sigma_next = sample.sigmas[sample.done], sample.sigmas[sample.done + 1]
        changing = {"latents": sample.latents, "sigma": sample.timesteps[sample.done : sample.done + 1]}
        answers = yield tuple(Call(self.denoiser, {**changing, **constant}) for constant in sample.passes)
        clean = answers[0]["sample"]
        if len(answers) > 1:
            clean = guide(clean, answers[1]["sample"], sample.guidance)
        velocity = velocity_of_sample(sample.latents, clean, sigma)
        sample.latents = euler(sample.latents, velocity, sigma, sigma_next)
        sample.estimate = lambda: clean
        sample.done += 1

    def decode(self, sample: Sample) -> Stage[Pixels]:
        yield ()
        return self._picture(sample.latents)

    def preview(self, sample: Sample) -> Stage[Pixels]:
        assert sample.estimate is not None
        yield ()
        return self._picture(sample.estimate())

    def tokens(self, images: Sequence[torch.Tensor]) -> int:
        return sum(image.shape[-1] * image.shape[-2] for image in images)

    def lengths(self, size: Size, references: Sequence[Size]) -> dict[str, int]:
        """Of latents: no component sees pixels, and there are no references."""
        return {"width": size[0] // self._patch_size, "height": size[1] // self._patch_size}

    def _picture(self, latents: torch.Tensor) -> Pixels:
        picture = latents_to_pixels(latents, self._patch_size)[0].permute(1, 2, 0).float()
        return ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

    def _tokens(self, prompt: str) -> tuple[Tokens]:
        return (tokenize(self._tokenizer, prompt, self._text_length),)


def _check_width(found: int, expected: int, folder: Path) -> None:
    if found != expected:
        raise ConfigurationError(f"{folder}/text_encoder answers vectors of {found}; its denoiser reads {expected}")


class _HiddenStates(torch.nn.Module):
    """A text encoder as a stateless component: token ids in, last hidden states out."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _text_encoder_spec(config: dict[str, int], precision: DType, words: int) -> ComponentSpec:
    length = config["text_length"]
    return ComponentSpec(
        "text_encoder",
        inputs=(
            TensorSpec("input_ids", "int64", ("batch", length), count=words),
            TensorSpec("attention_mask", "int64", ("batch", length)),
        ),
        outputs=(TensorSpec("text", precision, ("batch", length, config["text_dim"])),),
        axes=(Axis("batch", 1, 1, 64),),
        code=of_code(_HiddenStates),
    )


def _denoiser_spec(config: dict[str, int], precision: DType) -> ComponentSpec:
    patch, length = config["patch_size"], config["text_length"]
    channels = 3 * patch**2
    picture = ("batch", channels, "height", "width")
    return ComponentSpec(
        "denoiser",
        inputs=(
            TensorSpec("latents", precision, picture),
            TensorSpec("source", precision, picture),
            TensorSpec("sigma", precision, ("batch",)),
            TensorSpec("text", precision, ("batch", length, config["text_dim"])),
            TensorSpec("text_mask", "int64", ("batch", length)),
        ),
        outputs=(TensorSpec("sample", precision, picture),),
        axes=(Axis("batch", 1, 1, 64), Axis("height", 4, 128, 384), Axis("width", 4, 128, 384)),
        code=of_code(PixelEditUNet),
    )
