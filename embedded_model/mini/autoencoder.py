"""The autoencoder: diffusers' `AutoencoderKL`; its encoder is a fixed block transform, its decoder is learned."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from embedded_model.mini.blocks import LATENT_CHANNELS, BlockTransform, fit, read_from, write_into
from embedded_model.mini.device import autocast, compiled
from embedded_model.mini.pairs import GROUPS
from embedded_model.mini.photographs import Photographs
from embedded_model.mini.steady import steady_decoder, straight

CHANNELS = (32, 48, 96, 160)
SCALE = 4.0
"""How many times the transform's latents those of the pipeline are, whose noise has a variance of 1.

Fine structure has a variance far below 1, and would vanish under noise as strong as light and dark. And half of what
the transformer tells of a token, from a state as wide as noise and picture together, would be the noise.
"""
CROP = (64, 64)
FITTED_CROPS = 2048
EDITED = 3
"""One picture in so many is an edited one."""
SHOWN, SHOWN_CROP = 8, (256, 256)


def new_autoencoder() -> AutoencoderKL:
    """With random weights. Halves thrice."""
    shape: dict[str, Any] = {  # which diffusers declares as tuples of one
        "down_block_types": ("DownEncoderBlock2D",) * len(CHANNELS),
        "up_block_types": ("UpDecoderBlock2D",) * len(CHANNELS),
        "block_out_channels": CHANNELS,
    }
    return AutoencoderKL(
        **shape,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=SCALE,
        shift_factor=0.0,
        force_upcast=False,
    )


def scale_of(autoencoder: AutoencoderKL) -> float:
    """How many times the latents of the block transform those of its pipeline are."""
    config: Any = autoencoder.config
    return float(config.scaling_factor)


def fitted_transform(photographs: Photographs) -> BlockTransform:
    return fit(photographs.crops(FITTED_CROPS, CROP, seed=0) * 2 - 1)


class DecoderStage:
    """Learns to draw pixels from the block transform's latents, for the least squared error with a little absolute.

    The encoder does not learn. It is kept with the decoder, which is of no use with the transform of other photographs.
    """

    def __init__(self, photographs: Photographs, batch: int, straight_steps: int, device: torch.device) -> None:
        """straight_steps: in which only the chain without residual branches learns, before all does."""
        self._photographs, self._batch, self._straight_steps = photographs, batch, straight_steps
        autoencoder: Any = new_autoencoder()
        write_into(autoencoder.encoder, fitted_transform(photographs))
        steady_decoder(autoencoder.decoder)
        self._encoder = autoencoder.encoder.to(device).requires_grad_(False)
        self._decoder = autoencoder.decoder.to(device, memory_format=torch.channels_last)
        self.modules = nn.ModuleDict({"encoder": self._encoder, "decoder": self._decoder})
        self.matrices: list[Tensor] = []
        self._decode = compiled(self._decoder, device)
        self._device = device

    def losses(self, step: int) -> Mapping[str, Tensor]:
        pixels = self._pictures(step) * 2 - 1
        with autocast(self._device):
            latents = self._latents(pixels)
            drawn = straight(self._decoder, latents) if step < self._straight_steps else self._decode(latents)
        error = drawn.float() - pixels
        squared, absolute = error.square().mean(), error.abs().mean()
        return {"loss": squared + 0.1 * absolute, "psnr_db": psnr_db(squared.detach())}

    @torch.no_grad()
    def show(self, average: nn.ModuleDict, file: Path) -> None:
        """Above some crops, below what is left of them."""
        pixels = self._photographs.crops(SHOWN, SHOWN_CROP, seed=0) * 2 - 1
        drawn = average["decoder"](self._latents(pixels))
        both = torch.stack([pixels, drawn.float().clamp(-1, 1)]) * 127.5 + 127.5
        sheet = both.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
        Image.fromarray(sheet.round().byte().cpu().numpy()).save(file)

    def _pictures(self, step: int) -> Tensor:
        """Photographs, and a share of what edits of one kind come to: shapes, drawings and colours that none has."""
        crops = self._photographs.crops(self._batch, CROP, seed=step + 1)
        words, generator = random.Random(step), torch.Generator(self._device).manual_seed(step)
        (group,) = words.choices(list(GROUPS.values()), [group.weight for group in GROUPS.values()])
        edited = len(crops) // EDITED
        return torch.cat([group.make(crops[:edited], generator, words).target, crops[edited:]])

    def _latents(self, pixels: Tensor) -> Tensor:
        return read_from(self._encoder).encode(pixels).contiguous(memory_format=torch.channels_last)


def psnr_db(squared_error: Tensor) -> Tensor:
    """Of pictures in [-1, 1]."""
    return 10 * torch.log10(4 / squared_error)
