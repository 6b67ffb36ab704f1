"""The autoencoder's first half, which needs no training: blocks of 8x8 pixels as their principal components.

A picture is cut into blocks of 8x8 pixels, and a block is told by its first `LATENT_CHANNELS` principal components, as
JPEG tells it by the cosine transform. So latents are linear in the pixels, an edit of colours is nearly the same linear
map in every cell, and what the latents lose is known before anything is trained. `write_into` puts that map, exactly,
into the convolutions of diffusers' own encoder, which then is a plain `AutoencoderKL`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.vae import Encoder
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 8
LATENT_CHANNELS = 32
_CONSTANT = 64.0
"""Beside what the last normalisation is to let through, so much larger that it is all that the normalisation sees."""
_NO_VARIANCE = -30.0
"""The logarithm of the latents' variance: an edit starts from the mode."""


@dataclass(frozen=True)
class BlockTransform:
    """weights: (LATENT_CHANNELS, 3, BLOCK, BLOCK); rows are orthogonal, and as long as the latents shall be."""

    weights: Tensor

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], sides multiples of BLOCK, to latents (B, LATENT_CHANNELS, H / 8, W / 8)."""
        return functional.conv2d(pixels, self.weights.to(pixels), stride=BLOCK)

    def invert(self, latents: Tensor) -> Tensor:
        """The pixels that are nearest to having these latents: what a decoder that knows no pictures can do."""
        lengths = self.weights.square().sum((1, 2, 3), keepdim=True)
        return functional.conv_transpose2d(latents, (self.weights / lengths).to(latents), stride=BLOCK)


def fit(pixels: Tensor) -> BlockTransform:
    """The principal components of pictures (B, 3, H, W) in [-1, 1] and of what they are mirrored and upside down.

    Each is scaled by the root of its standard deviation: halfway between true lengths, beside which details vanish, and
    equal ones, by which noise would count as much as light and dark. Their variance is 1 in the mean.
    """
    variants = (pixels, pixels.flip(2), pixels.flip(3), pixels.flip(2, 3))
    blocks = torch.cat(
        [functional.pixel_unshuffle(variant, BLOCK).movedim(1, -1).flatten(0, 2) for variant in variants]
    )
    blocks = blocks.double()  # so that it hardly matters in how many threads the sums are taken
    moments = blocks.T @ blocks / len(blocks)
    variances, vectors = torch.linalg.eigh(moments)  # rising
    deviations = variances[-LATENT_CHANNELS:].flip(0).clamp(min=1e-12).sqrt()
    scales = deviations.rsqrt() * deviations.mean().rsqrt()
    rows = vectors[:, -LATENT_CHANNELS:].flip(1).T
    # An eigenvector's sign is the library's whim. Half of them are odd and sum to nothing, so that a sum cannot tell.
    rows = rows * (rows @ torch.randn(rows.shape[1], 1, generator=torch.Generator().manual_seed(0)).to(rows)).sign()
    return BlockTransform((rows * scales[:, None]).float().unflatten(1, (3, BLOCK, BLOCK)))


@torch.no_grad()
def write_into(encoder: Encoder, transform: BlockTransform) -> None:
    """Makes the encoder compute `transform`, in place: its mode is `transform.encode`, its variance nothing.

    Each halving gathers the four pixels below a cell, the third into the components at once; residual branches are
    silent. The last group normalisation and SiLU are no linear map, so latents pass them as pairs x and -x beside large
    constants: silu(x) - silu(-x) is x, and the constants' variance is all that the normalisation divides by.
    Raises ValueError where the encoder has not the shape for it.
    """
    stages: list[Any] = list(encoder.down_blocks)
    if len(stages) != 4 or encoder.conv_out.out_channels != 2 * LATENT_CHANNELS:
        raise ValueError("an encoder of four blocks that halves three times and has 32 latent channels is needed")
    for parameter in encoder.parameters():
        parameter.zero_()
    for module in encoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.fill_(1.0)
    _copy(encoder.conv_in, 3)
    for stage, gathered in zip(stages[:2], (3, 12), strict=True):
        _pass_on(stage, gathered)
        _gather(stage.downsamplers[0].conv, gathered)
    _pass_on(stages[2], 48)
    _components(stages[2].downsamplers[0].conv, transform)
    _double(stages[3].resnets[0].conv_shortcut, encoder.conv_norm_out)
    _join(encoder.conv_out, encoder.conv_norm_out)


def read_from(encoder: Encoder) -> BlockTransform:
    """What `write_into` has put there."""
    stages: list[Any] = list(encoder.down_blocks)
    ordered = stages[2].downsamplers[0].conv.weight.detach()[:LATENT_CHANNELS, :48, :2, :2]
    parts = ordered.reshape(LATENT_CHANNELS, 3, 2, 2, 2, 2, 2, 2).permute(0, 1, 6, 4, 2, 7, 5, 3)
    return BlockTransform(parts.reshape(LATENT_CHANNELS, 3, BLOCK, BLOCK).float())


def _pass_on(stage: Any, channels: int) -> None:
    for resnet in stage.resnets:
        if resnet.conv_shortcut is not None:
            _copy(resnet.conv_shortcut, channels)


def _copy(convolution: nn.Conv2d, channels: int) -> None:
    middle = convolution.kernel_size[0] // 2
    for channel in range(channels):
        convolution.weight[channel, channel, middle, middle] = 1.0


def _gather(convolution: nn.Conv2d, channels: int) -> None:
    """Of stride 2: the pixel at (row, column) of four goes to channel 4 c + 2 row + column."""
    for channel in range(channels):
        for row in range(2):
            for column in range(2):
                convolution.weight[4 * channel + 2 * row + column, channel, row, column] = 1.0


def _components(convolution: nn.Conv2d, transform: BlockTransform) -> None:
    """Of stride 2, over 48 channels that hold 4x4 pixels, in the order of two `_gather`s."""
    weights = transform.weights  # (K, 3, 8, 8); a pixel's row is 4 i + 2 j + k: which of four, thrice
    parts = weights.reshape(LATENT_CHANNELS, 3, 2, 2, 2, 2, 2, 2)  # K, colour, i, j, k, and the same of the column
    ordered = parts.permute(0, 1, 4, 7, 3, 6, 2, 5)  # K, colour, k of both, j of both, i of both
    convolution.weight[:LATENT_CHANNELS, :48, :2, :2] = ordered.reshape(LATENT_CHANNELS, 48, 2, 2)


def _double(shortcut: Any, norm: nn.GroupNorm) -> None:
    """Each latent as x and -x, and constants of both signs, in every group alike."""
    for group in range(norm.num_groups):
        first, share = _group(norm, group)
        for i in range(share):
            latent = group * share + i
            shortcut.weight[first + 2 * i, latent] = 1.0
            shortcut.weight[first + 2 * i + 1, latent] = -1.0
        constants = shortcut.bias[first + 2 * share : first + norm.num_channels // norm.num_groups]
        constants[0::2], constants[1::2] = _CONSTANT, -_CONSTANT


def _join(convolution: Any, norm: nn.GroupNorm) -> None:
    size = norm.num_channels // norm.num_groups
    for group in range(norm.num_groups):
        first, share = _group(norm, group)
        constants = size - 2 * share
        norm.weight[first : first + 2 * share] = _CONSTANT * (constants / size) ** 0.5
        norm.weight[first + 2 * share : first + size] = 0.0
        for i in range(share):
            convolution.weight[group * share + i, first + 2 * i, 1, 1] = 1.0
            convolution.weight[group * share + i, first + 2 * i + 1, 1, 1] = -1.0
    convolution.bias[LATENT_CHANNELS:] = _NO_VARIANCE


def _group(norm: nn.GroupNorm, group: int) -> tuple[int, int]:
    """A group's first channel, and how many latents it carries."""
    size, share = norm.num_channels // norm.num_groups, LATENT_CHANNELS // norm.num_groups
    if size < 2 * share + 2 or (size - 2 * share) % 2 or LATENT_CHANNELS % norm.num_groups:
        raise ValueError(f"groups of {size} channels have no room for {share} latents, twice, and a pair of constants")
    return group * size, share
