"""The neural components of FLUX.1 Kontext: what goes in and out of each, and the torch module behind it.

Everything that is no neural network stays outside, so that a component is a pure function of its inputs and can be
compiled: random numbers, the schedule, packing, blending, the rotary position embedding, and the waves that tell
numbers. The last two are inputs: a runtime that computes all of a graph in bfloat16, as OpenVINO does, would round
their phases, which go up to a thousand, to multiples of four.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from transformers import CLIPTextModel, T5EncoderModel

from serve.backends.fingerprint import of_code
from serve.types import Axis, ComponentSpec, DType, Size, TensorSpec

RGB = 3
PACK = 2
"""A token of the transformer is a square of PACK x PACK latent cells."""
WAVES = 256
"""Cosines and sines that tell the transformer a number: the noise level, or the guidance."""

_BATCH = Axis("batch", 1, 1, 64)
_TOKENS = Axis("tokens", 1, 4096, 9604)
_REFERENCE_TOKENS = Axis("reference_tokens", 1, 4096, 65536, param="images")
_POSITIONS = Axis("positions", 3, 8704, 75652)
_LATENT_SIDES = (Axis("latent_height", 2, 128, 2048), Axis("latent_width", 2, 128, 2048))
_PIXEL_SIDES = (Axis("height", 16, 1024, 16384), Axis("width", 16, 1024, 16384))


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What a checkpoint's configuration fixes.

    dtype: of weights and activations. latent_channels: of the autoencoder. token_pixels: side in pixels of what one
    token shows. clip_tokens, t5_tokens: length that prompts are padded to. clip_words, t5_words: of the vocabularies.
    text_width, pooled_width: of the encoders' answers. rotary_axes: parts of an attention head that encode picture
    index, row and column.
    """

    dtype: DType
    latent_channels: int
    token_pixels: int
    clip_tokens: int
    t5_tokens: int
    clip_words: int
    t5_words: int
    text_width: int
    pooled_width: int
    rotary_axes: tuple[int, ...]

    @property
    def cell_pixels(self) -> int:
        """Side in pixels of what one latent cell shows."""
        return self.token_pixels // PACK

    @property
    def token_channels(self) -> int:
        return self.latent_channels * PACK**2

    @property
    def rotary_width(self) -> int:
        """Cosines, then sines."""
        return 2 * sum(self.rotary_axes)

    def lengths(self, size: Size, references: Sequence[Size]) -> dict[str, int]:
        """See `Family.lengths`."""
        side, cell = self.token_pixels, self.cell_pixels
        drawn, *read = ((width // side) * (height // side) for width, height in (size, size, *references))
        return {
            "width": size[0],
            "height": size[1],
            "latent_width": size[0] // cell,
            "latent_height": size[1] // cell,
            "tokens": drawn,
            "reference_tokens": sum(read),
            "positions": self.t5_tokens + drawn + sum(read),
        }


def specs(d: Dimensions) -> tuple[ComponentSpec, ...]:
    """Of all components."""
    return text_encoder_spec(d), text_encoder_2_spec(d), vae_encoder_spec(d), vae_decoder_spec(d), denoiser_spec(d)


def text_encoder_spec(d: Dimensions) -> ComponentSpec:
    """CLIP: the prompt's tokens to one vector."""
    return ComponentSpec(
        name="text_encoder",
        inputs=(TensorSpec("ids", "int64", ("batch", d.clip_tokens), count=d.clip_words),),
        outputs=(TensorSpec("pooled", d.dtype, ("batch", d.pooled_width)),),
        axes=(_BATCH,),
        code=of_code(TextEncoder),
    )


def text_encoder_2_spec(d: Dimensions) -> ComponentSpec:
    """T5: the prompt's tokens to one vector each."""
    return ComponentSpec(
        name="text_encoder_2",
        inputs=(TensorSpec("ids", "int64", ("batch", d.t5_tokens), count=d.t5_words),),
        outputs=(TensorSpec("text", d.dtype, ("batch", d.t5_tokens, d.text_width)),),
        axes=(_BATCH,),
        code=of_code(TextEncoder2),
    )


def vae_encoder_spec(d: Dimensions) -> ComponentSpec:
    """Pixels in [-1, 1] to latents in the transformer's scale. The picture drawn and the references, one by one."""
    sides = tuple(replace(axis, param="images") for axis in _PIXEL_SIDES)
    return ComponentSpec(
        name="vae_encoder",
        inputs=(TensorSpec("pixels", d.dtype, ("batch", RGB, "height", "width")),),
        outputs=(TensorSpec("latents", d.dtype, ("batch", d.latent_channels, "latent_height", "latent_width")),),
        axes=(_BATCH, *sides, *_scaled(_LATENT_SIDES, sides, Fraction(1, d.cell_pixels))),
        code=of_code(VaeEncoder),
    )


def vae_decoder_spec(d: Dimensions) -> ComponentSpec:
    """The inverse of `vae_encoder_spec`; pixels may pass [-1, 1] a little."""
    return ComponentSpec(
        name="vae_decoder",
        inputs=(TensorSpec("latents", d.dtype, ("batch", d.latent_channels, "latent_height", "latent_width")),),
        outputs=(TensorSpec("pixels", d.dtype, ("batch", RGB, "height", "width")),),
        axes=(_BATCH, *_LATENT_SIDES, *_scaled(_PIXEL_SIDES, _LATENT_SIDES, Fraction(d.cell_pixels))),
        code=of_code(VaeDecoder),
    )


def denoiser_spec(d: Dimensions) -> ComponentSpec:
    """One step: the velocity of the noisy tokens, given the references' clean tokens, the noise level and the text.

    timestep, guidance: the noise level sigma and the guidance, as `waves`. rotary: of the text's, the picture's and the
    references' tokens, in this order; rows that share a batch have it in common, and the first row's is read.
    """
    positions = replace(_POSITIONS, of=(_TOKENS.name, _REFERENCE_TOKENS.name), plus=d.t5_tokens)
    return ComponentSpec(
        name="denoiser",
        inputs=(
            TensorSpec("latents", d.dtype, ("batch", "tokens", d.token_channels)),
            TensorSpec("references", d.dtype, ("batch", "reference_tokens", d.token_channels)),
            TensorSpec("timestep", d.dtype, ("batch", WAVES)),
            TensorSpec("guidance", d.dtype, ("batch", WAVES)),
            TensorSpec("text", d.dtype, ("batch", d.t5_tokens, d.text_width)),
            TensorSpec("pooled", d.dtype, ("batch", d.pooled_width)),
            TensorSpec("rotary", "float32", ("batch", "positions", d.rotary_width), fixed=True),
        ),
        outputs=(TensorSpec("velocity", d.dtype, ("batch", "tokens", d.token_channels)),),
        axes=(_BATCH, _TOKENS, _REFERENCE_TOKENS, positions),
        code=of_code(Denoiser),
    )


class TextEncoder(nn.Module):
    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids, output_hidden_states=False).pooler_output


class TextEncoder2(nn.Module):
    """T5 keeps some layers in float32 when the rest is float16; its answer has the type of the rest."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids, output_hidden_states=False)[0].to(self.encoder.dtype)


class VaeEncoder(nn.Module):
    """The mode of the autoencoder's posterior, so that a picture has one encoding."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant = vae.encoder, vae.quant_conv or nn.Identity()
        self.shift, self.scale = vae.config["shift_factor"], vae.config["scaling_factor"]

    def forward(self, pixels: Tensor) -> Tensor:
        mode = DiagonalGaussianDistribution(self.quant(self.encoder(pixels))).mode()
        return (mode - self.shift) * self.scale


class VaeDecoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder, self.post_quant = vae.decoder, vae.post_quant_conv or nn.Identity()
        self.shift, self.scale = vae.config["shift_factor"], vae.config["scaling_factor"]

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant(latents / self.scale + self.shift))


class Denoiser(nn.Module):
    """diffusers' transformer with the rotary embedding and the waves of noise level and guidance as inputs.

    The transformer joins `txt_ids` and `img_ids` and asks `pos_embed` for the embedding of the whole; here the ids
    already are the embedding and `pos_embed` only takes cosines and sines apart, so its own code runs unchanged. In the
    same way what it hands to `time_text_embed` with the pooled text are the waves.
    """

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        transformer.pos_embed = _CosinesAndSines()  # pyright: ignore[reportAttributeAccessIssue]
        transformer.time_text_embed = _OfWaves(transformer.time_text_embed)  # pyright: ignore[reportAttributeAccessIssue]
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        references: Tensor,
        timestep: Tensor,
        guidance: Tensor,
        text: Tensor,
        pooled: Tensor,
        rotary: Tensor,
    ) -> Tensor:
        velocity = self.transformer(
            hidden_states=torch.cat([latents, references], dim=1),
            encoder_hidden_states=text,
            pooled_projections=torch.cat([timestep, guidance, pooled], dim=1),
            timestep=timestep,
            guidance=guidance,
            txt_ids=rotary[0, : text.shape[1]],
            img_ids=rotary[0, text.shape[1] :],
            return_dict=False,
        )[0]
        return velocity[:, : latents.shape[1]]


def _scaled(axes: tuple[Axis, ...], of: tuple[Axis, ...], ratio: Fraction) -> tuple[Axis, ...]:
    return tuple(replace(axis, of=(other.name,), ratio=ratio) for axis, other in zip(axes, of, strict=True))


class _CosinesAndSines(nn.Module):
    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = ids.chunk(2, dim=-1)
        return cosines, sines


class _OfWaves(nn.Module):
    """diffusers' `CombinedTimestepGuidanceTextProjEmbeddings`, whose first two numbers come as waves with the text."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.timestep_embedder, self.guidance_embedder = embedding.timestep_embedder, embedding.guidance_embedder
        self.text_embedder = embedding.text_embedder

    def forward(self, timestep: Tensor, guidance: Tensor, told: Tensor) -> Tensor:
        """timestep, guidance: are not read. told: (B, 2 WAVES + pooled)."""
        level, strength, pooled = told.split([WAVES, WAVES, told.shape[1] - 2 * WAVES], dim=1)
        return self.timestep_embedder(level) + self.guidance_embedder(strength) + self.text_embedder(pooled)


def waves(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """(N,) noise levels or guidances to (N, WAVES) in that type, rounded where diffusers' transformer rounds them."""
    phases = numbers.to(dtype) * 1000
    return get_timestep_embedding(phases, WAVES, flip_sin_to_cos=True, downscale_freq_shift=0).to(dtype)
