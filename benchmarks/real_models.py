"""Networks of the sizes that people run, with random weights, made where they compute: no checkpoint is read.

FLUX.1 Kontext's transformer and autoencoder with their true shapes, wrapped as the server runs them, and a denoiser of
Stable Diffusion 1.5's size.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.real_shapes import (
    CLIP_WORDS,
    REAL_AUTOENCODER,
    REAL_SUMMARY_TOKENS,
    REAL_TEXT_TOKENS,
    REAL_TRANSFORMER,
    T5_WORDS,
    TOKEN_PIXELS,
)
from serve.families.flux_kontext_components import Denoiser, Dimensions, VaeDecoder, VaeEncoder
from serve.types import Axis, ComponentSpec, DType, TensorSpec

Module = TypeVar("Module", bound=nn.Module)

DOUBLE_BLOCKS: int = REAL_TRANSFORMER["num_layers"]
SINGLE_BLOCKS: int = REAL_TRANSFORMER["num_single_layers"]
WEIGHT_DEVIATION = 0.02
"""Small enough for activations to stay finite through all blocks."""
UNET_DOWNSCALE = 8
"""Pixels of a picture a cell of the latents that the UNet works on."""


def kontext_dimensions(dtype: DType) -> Dimensions:
    return Dimensions(
        dtype=dtype,
        latent_channels=REAL_AUTOENCODER["latent_channels"],
        token_pixels=TOKEN_PIXELS,
        clip_tokens=REAL_SUMMARY_TOKENS,
        t5_tokens=REAL_TEXT_TOKENS,
        clip_words=CLIP_WORDS,
        t5_words=T5_WORDS,
        text_width=REAL_TRANSFORMER["joint_attention_dim"],
        pooled_width=REAL_TRANSFORMER["pooled_projection_dim"],
        rotary_axes=REAL_TRANSFORMER["axes_dims_rope"],
    )


def kontext_denoiser(
    device: torch.device, dtype: torch.dtype, double: int = DOUBLE_BLOCKS, single: int = SINGLE_BLOCKS
) -> Denoiser:
    """12 billion parameters. double, single: its blocks of either kind."""
    blocks: dict[str, Any] = {"num_layers": double, "num_single_layers": single}

    def make() -> FluxTransformer2DModel:
        return FluxTransformer2DModel(**REAL_TRANSFORMER | blocks)

    return Denoiser(with_random_weights(make, device, dtype)).eval()


def kontext_autoencoder(device: torch.device, dtype: torch.dtype) -> tuple[VaeEncoder, VaeDecoder]:
    def make() -> AutoencoderKL:
        return AutoencoderKL(**REAL_AUTOENCODER)

    autoencoder = with_random_weights(make, device, dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return VaeEncoder(autoencoder).eval(), VaeDecoder(autoencoder).eval()


class Unet(nn.Module):
    """Of Stable Diffusion 1.5: 0.86 billion parameters."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return self.unet(latents, timestep, encoder_hidden_states=text, return_dict=False)[0]


def unet_denoiser(device: torch.device, dtype: torch.dtype) -> Unet:
    def make() -> UNet2DConditionModel:
        return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)

    unet = with_random_weights(make, device, dtype)
    return Unet(unet.to(memory_format=torch.channels_last)).eval()  # pyright: ignore[reportCallIssue]


def unet_spec(dtype: DType) -> ComponentSpec:
    sides = (Axis("latent_height", 8, 64, 256), Axis("latent_width", 8, 64, 256))
    latents = ("batch", 4, "latent_height", "latent_width")
    return ComponentSpec(
        name="unet",
        inputs=(
            TensorSpec("latents", dtype, latents),
            TensorSpec("timestep", dtype, ("batch",)),
            TensorSpec("text", dtype, ("batch", 77, 768)),
        ),
        outputs=(TensorSpec("noise", dtype, latents),),
        axes=(Axis("batch", 1, 1, 64), *sides),
    )


def with_random_weights(make: Callable[[], Module], device: torch.device, dtype: torch.dtype) -> Module:
    """The module with normal weights in its precision from the start: nowhere are there larger ones to convert. On the
    device `meta` it has none."""
    with torch.device("meta"):
        module = make().to(dtype)
    module.requires_grad_(False)
    if device.type == "meta":
        return module
    module = module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_(0.0, WEIGHT_DEVIATION, generator=generator)
    if list(module.buffers()):
        raise ValueError(f"{type(module).__name__} has buffers, which are no random numbers")
    return module
