"""FLUX.1 Kontext: edits by reference. Pictures are read as extra tokens beside the noisy ones (Batifol et al. 2025).

Agrees bit for bit with diffusers' `FluxKontextPipeline`, and under a mask or a strength below 1 with its
`FluxKontextInpaintPipeline`. Further pictures, which diffusers does not take, lie beside or below those before them.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from huggingface_hub.errors import HFValidationError
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from serve.backends.base import Backend, Component
from serve.backends.checks import name_of
from serve.errors import ConfigurationError
from serve.families.base import Blend, Call, Plan, Sample, Stage, TextEncoding
from serve.families.checkpoint import load_tokenizer, load_weights, reading
from serve.families.flux_kontext_components import (
    PACK,
    Denoiser,
    Dimensions,
    TextEncoder,
    TextEncoder2,
    VaeDecoder,
    VaeEncoder,
    denoiser_spec,
    text_encoder_2_spec,
    text_encoder_spec,
    vae_decoder_spec,
    vae_encoder_spec,
    waves,
)
from serve.families.prompts import Tokens, part_read, tokenize
from serve.families.solvers import (
    TIMESTEPS,
    Shift,
    add_noise,
    blend,
    euler,
    flow_sigmas,
    last_steps,
    sample_of_velocity,
    steps_to_run,
)
from serve.types import ComponentSpec, EditJob, Pixels, Size

PIPELINES = ("FluxKontextPipeline", "FluxKontextInpaintPipeline")
MAX_TEXT_TOKENS = 512
ROTARY_THETA = 10000
PREVIEW_CELLS = 2
"""Along a side, latent cells of the picture that become one of a preview."""

ROTARIES = 16
"""Rotary embeddings kept, one for each arrangement of pictures; 9 MB for a picture and a reference of 1024 px."""


def load(weights: str, backend: Backend) -> "FluxKontext":
    """The model of a folder in diffusers' layout or of a hub id. Raises ConfigurationError: there is no such model."""
    folder = weights if Path(weights).is_dir() else _download(weights)
    with reading(f"weights {weights!r}"):
        pipeline = _config(DiffusionPipeline, folder)["_class_name"]
        if pipeline not in PIPELINES:
            raise ConfigurationError(f"weights {weights!r} are of a {pipeline}; flux_kontext serves {PIPELINES[0]}")
        return FluxKontext(folder, backend)


class FluxKontext:
    """The loaded model. Latents of pictures are (1, C, h, w); a sample's are packed to tokens, (1, h/2 * w/2, 4 C)."""

    def __init__(self, folder: str, backend: Backend) -> None:
        """folder: in diffusers' layout. Raises what diffusers and transformers raise for one that is not."""
        self._device, self._dtype = backend.device, backend.dtype
        self._clip_tokenizer = load_tokenizer(CLIPTokenizer, folder, "tokenizer")
        self._t5_tokenizer = load_tokenizer(T5Tokenizer, folder, "tokenizer_2")
        self._shift = Shift.from_config(_config(FlowMatchEulerDiscreteScheduler, folder, "scheduler"))
        self._dimensions = d = _dimensions(folder, backend.dtype, self._clip_tokenizer, self._t5_tokenizer)
        self._rotary = FluxPosEmbed(ROTARY_THETA, list(d.rotary_axes))
        self._rotary_of = lru_cache(ROTARIES)(self._make_rotary)

        def load(spec: ComponentSpec, module: Any, model: Any, subfolder: str) -> Component:
            def build(dtype: torch.dtype) -> torch.nn.Module:
                return module(load_weights(model, folder, subfolder, dtype))

            return backend.load(spec, build, Path(folder) / subfolder)

        self.text_encoder = load(text_encoder_spec(d), TextEncoder, CLIPTextModel, "text_encoder")
        self.text_encoder_2 = load(text_encoder_2_spec(d), TextEncoder2, T5EncoderModel, "text_encoder_2")
        self.vae_encoder = load(vae_encoder_spec(d), VaeEncoder, AutoencoderKL, "vae")
        self.vae_decoder = load(vae_decoder_spec(d), VaeDecoder, AutoencoderKL, "vae")
        self.denoiser = load(denoiser_spec(d), Denoiser, FluxTransformer2DModel, "transformer")

    def plan(self, job: EditJob) -> Plan:
        grids = tuple(self._grid_of(picture) for picture in (job.canvas, *job.references))
        drawn, read = grids[0][0] * grids[0][1], sum(rows * columns for rows, columns in grids)
        text = self._dimensions.t5_tokens
        return Plan(
            key=("flux_kontext", *grids),
            steps=steps_to_run(job.steps, job.strength),
            passes=1,
            tokens=drawn + read + text,
        )

    def text_prompts(self, job: EditJob) -> tuple[str, ...]:
        """One: the guidance is distilled into the model."""
        return (job.prompt,)

    def encode_text(self, prompt: str) -> Stage[TextEncoding]:
        """What T5 reads is the prompt; `tokens` counts it, the end mark included.

        CLIP gives one vector for the whole, as the model was trained: a summary of the first tokens, in FLUX.1 of 77
        beside 512. A prompt that only CLIP does not read to its end is not cut.
        """
        clip, t5 = self._tokens(prompt)
        summary, whole = yield (
            Call(self.text_encoder, {"ids": clip.ids.to(self._device)}),
            Call(self.text_encoder_2, {"ids": t5.ids.to(self._device)}),
        )
        cut_to = part_read(prompt, self._tokens) if t5.cut else None
        return TextEncoding({"text": whole["text"], "pooled": summary["pooled"]}, t5.count, cut_to)

    def encode_image(self, pixels: Pixels) -> Stage[Tensor]:
        """(H, W, 3), both sides multiples of a token's, to latents (1, C, h, w)."""
        height, width, _ = pixels.shape
        side = self._dimensions.token_pixels
        if height % side or width % side:
            raise ValueError(f"a picture of {width}x{height} pixels cannot be encoded; sides are multiples of {side}")
        planes = torch.tensor(pixels).permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.contiguous_format)
        batch = planes.div_(255).mul_(2).sub_(1).to(self._device, self._dtype)
        (answer,) = yield (Call(self.vae_encoder, {"pixels": batch}),)
        return answer["latents"]

    def begin(self, job: EditJob, texts: Sequence[TextEncoding], images: Sequence[Tensor], seed: int) -> Sample:
        """Starts from the canvas, noised to the first level that the strength runs; at strength 1 that is noise."""
        (text,) = texts
        grids = tuple(_grid(image) for image in images)
        source = _pack(images[0])
        noise = _pack(self._noise(images[0].shape, seed))
        sigmas = last_steps(flow_sigmas(job.steps, self._shift, tokens=source.shape[1]), job.strength)
        height, width, _ = job.canvas.shape
        conditioning = {
            **text.tensors,
            "references": torch.cat([_pack(image) for image in images], dim=1),
            "guidance": waves(torch.full((1,), job.guidance), self._dtype).to(self._device),
            "rotary": self._rotary_of(text.tensors["text"].shape[1], *grids),
        }
        return Sample(
            latents=add_noise(source, noise, sigmas[0]),
            sigmas=sigmas,
            timesteps=waves((sigmas * TIMESTEPS).to(self._dtype) / TIMESTEPS, self._dtype).to(self._device),
            passes=(conditioning,),
            guidance=job.guidance,
            size=(width, height),
            blend=None if job.mask is None else Blend(source, noise, self._latent_mask(job.mask)),
        )

    def step(self, sample: Sample) -> Stage[None]:
        sigma, sigma_next = sample.sigmas[sample.done], sample.sigmas[sample.done + 1]
        changing = {"latents": sample.latents, "timestep": sample.timesteps[sample.done : sample.done + 1]}
        (answer,) = yield (Call(self.denoiser, {**changing, **sample.passes[0]}),)
        sample.estimate = partial(sample_of_velocity, sample.latents, answer["velocity"], sigma)
        latents = euler(sample.latents, answer["velocity"], sigma, sigma_next)
        if sample.blend is not None:
            kept = sample.blend
            latents = blend(latents, kept.source, kept.noise, kept.mask, sigma_next)
        sample.latents = latents
        sample.done += 1

    def decode(self, sample: Sample) -> Stage[Pixels]:
        latents = _unpack(sample.latents, sample.size, self._dimensions.token_pixels)
        return (yield from self._decode(latents))

    def preview(self, sample: Sample) -> Stage[Pixels]:
        """At half the size: a quarter of the cells to decode, each the mean of four."""
        assert sample.estimate is not None
        latents = _unpack(sample.estimate(), sample.size, self._dimensions.token_pixels)
        return (yield from self._decode(functional.avg_pool2d(latents, PREVIEW_CELLS)))

    def tokens(self, images: Sequence[Tensor]) -> int:
        return sum(rows * columns for rows, columns in map(_grid, images))

    def lengths(self, size: Size, references: Sequence[Size]) -> dict[str, int]:
        return self._dimensions.lengths(size, references)

    def _tokens(self, prompt: str) -> tuple[Tokens, Tokens]:
        """CLIP's and T5's."""
        clip = tokenize(self._clip_tokenizer, prompt, self._dimensions.clip_tokens)
        return clip, tokenize(self._t5_tokenizer, prompt, self._dimensions.t5_tokens)

    def _decode(self, latents: Tensor) -> Stage[Pixels]:
        (answer,) = yield (Call(self.vae_decoder, {"latents": latents}),)
        bounded = (answer["pixels"][0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).float().cpu()
        return (bounded * 255).round().to(torch.uint8).contiguous().numpy()

    def _noise(self, shape: torch.Size, seed: int) -> Tensor:
        """Drawn on the CPU, so that a seed means the same on every device."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=self._dtype).to(self._device)

    def _grid_of(self, pixels: Pixels) -> tuple[int, int]:
        """Rows and columns of tokens of a picture."""
        side = self._dimensions.token_pixels
        return pixels.shape[0] // side, pixels.shape[1] // side

    def _make_rotary(self, text_tokens: int, *grids: tuple[int, int]) -> Tensor:
        """(1, positions, width). Text is at the origin; the canvas lies where the picture drawn does, one deeper."""
        drawn = _positions(0, 0, 0, grids[0])
        places = (_positions(1, *offset, grid) for offset, grid in zip(reference_offsets(grids), grids, strict=True))
        ids = torch.cat([torch.zeros(text_tokens, 3), drawn, *places])
        return torch.cat(self._rotary(ids), dim=-1)[None].to(self._device)

    def _latent_mask(self, mask: Pixels) -> Tensor:
        """1 for each latent cell with any pixel that is not black, in the shape of packed latents.

        The composition after decoding restores black pixels and blends grey ones, so a cell that holds both is edited.
        """
        cell = self._dimensions.token_pixels // PACK
        edited = torch.from_numpy(mask > 0).to(self._device, self._dtype)[None, None]
        cells = functional.max_pool2d(edited, cell)
        return _pack(cells.expand(-1, self._dimensions.latent_channels, -1, -1))


def reference_offsets(grids: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Row and column where each picture's tokens begin, so that none overlap. grids: rows and columns of each.

    Each lies beside or below all before it, whichever keeps the whole squarer: the "offset" placement that ComfyUI
    gives Kontext's references.
    """
    offsets: list[tuple[int, int]] = []
    height = width = 0
    for rows, columns in grids:
        top, left = (0, width) if height + rows > width + columns else (height, 0)
        offsets.append((top, left))
        height, width = max(height, top + rows), max(width, left + columns)
    return offsets


def _positions(index: int, top: int, left: int, grid: tuple[int, int]) -> Tensor:
    """(rows * columns, 3): picture index, row and column of each token."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([torch.full_like(rows, index), rows + top, columns + left], dim=-1).reshape(-1, 3).float()


def _grid(latents: Tensor) -> tuple[int, int]:
    """Rows and columns of tokens of latents (1, C, h, w)."""
    return latents.shape[2] // PACK, latents.shape[3] // PACK


def _pack(latents: Tensor) -> Tensor:
    """(1, C, h, w) to tokens (1, h/2 * w/2, 4 C)."""
    return functional.pixel_unshuffle(latents, PACK).flatten(2).transpose(1, 2).contiguous()


def _unpack(tokens: Tensor, size: tuple[int, int], token_pixels: int) -> Tensor:
    """The inverse of `_pack`. size: (width, height) in pixels."""
    columns, rows = size[0] // token_pixels, size[1] // token_pixels
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PACK)


def _download(hub_id: str) -> str:
    try:
        return str(DiffusionPipeline.download(hub_id))
    except HFValidationError:
        raise ConfigurationError(f"weights {hub_id!r} are neither a folder nor a hub id") from None
    except Exception as error:  # the hub's client lets errors of whichever HTTP library it uses through
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(f"weights {hub_id!r} cannot be had from the hub: {reason}") from error


def _config(part: Any, folder: str, subfolder: str | None = None) -> dict[str, Any]:
    return part.load_config(folder, subfolder=subfolder)


def _dimensions(folder: str, dtype: torch.dtype, clip: CLIPTokenizer, t5: T5Tokenizer) -> Dimensions:
    transformer = _config(FluxTransformer2DModel, folder, "transformer")
    vae = _config(AutoencoderKL, folder, "vae")
    if not transformer["guidance_embeds"]:
        raise ConfigurationError(f"the transformer in {folder} has no guidance embedding, which FLUX.1 Kontext needs")
    return Dimensions(
        dtype=name_of(dtype),
        latent_channels=vae["latent_channels"],
        token_pixels=PACK * 2 ** (len(vae["block_out_channels"]) - 1),
        clip_tokens=clip.model_max_length,
        t5_tokens=min(t5.model_max_length, MAX_TEXT_TOKENS),
        clip_words=len(clip),
        t5_words=len(t5),
        text_width=transformer["joint_attention_dim"],
        pooled_width=transformer["pooled_projection_dim"],
        rotary_axes=tuple(transformer["axes_dims_rope"]),
    )
