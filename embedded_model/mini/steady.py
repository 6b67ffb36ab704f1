"""Group normalisation that leaves levels alone.

diffusers' autoencoder normalises the features of a whole picture, and with their spread it takes away how bright and
how full of contrast the picture is, which is what an autoencoder has to keep. Here two channels of every group start as
constants, one the negative of the other, so large that they are nearly all of the spread: what the normalisation
divides by is then known, and its weights undo it. Networks for restoration that have no normalisation learn faster and
better (Lim et al. 2017, "Enhanced deep residual networks"); this makes one of a network that has.

Without its residual branches such a decoder is a chain of convolutions, and linear. `straight` is that chain, which may
be trained alone first: it learns most of what there is in a ninth of the time a step.
"""

from typing import Any, Literal

import torch
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor, nn
from torch.nn import functional

CONSTANT = 8.0
_LAST_WEIGHTS = 0.01
"""Standard deviation of the weights that make pixels: a grey picture is nearer to any other than noise is."""


@torch.no_grad()
def steady_decoder(decoder: Decoder) -> None:
    """Starts every normalisation as (nearly) the identity and every residual branch as nothing, in place.

    What no normalisation keeps in size the weights have to, so they are drawn for it (He et al. 2015).
    """
    up_blocks: list[Any] = list(decoder.up_blocks)
    middle: Any = decoder.mid_block
    resnets = [*middle.resnets, *(resnet for block in up_blocks for resnet in block.resnets)]
    norm = resnets[0].norm1
    _begin(decoder.conv_in, norm, "linear")
    for resnet in resnets:
        _identity(resnet.norm1)
        _begin(resnet.conv1, resnet.norm2, "relu")
        _identity(resnet.norm2)
        nn.init.zeros_(resnet.conv2.weight)
        nn.init.zeros_(resnet.conv2.bias)
        if resnet.conv_shortcut is not None:
            _begin(resnet.conv_shortcut, resnet.norm2, "linear")
    for block in up_blocks:
        for upsampler in block.upsamplers or ():
            _begin(upsampler.conv, block.resnets[-1].norm2, "linear")
    norm_out: Any = decoder.conv_norm_out
    _identity(norm_out)
    nn.init.normal_(decoder.conv_out.weight, std=_LAST_WEIGHTS)
    last = [resnet.conv_shortcut for resnet in resnets if resnet.conv_shortcut is not None][-1]
    _pair(last, decoder.conv_out, norm_out)


def straight(decoder: Decoder, latents: Tensor) -> Tensor:
    """What the decoder computes as long as its residual branches are silent."""
    features = decoder.conv_in(latents)
    up_blocks: list[Any] = list(decoder.up_blocks)
    for block in up_blocks:
        for resnet in block.resnets:
            features = features if resnet.conv_shortcut is None else resnet.conv_shortcut(features)
        for upsampler in block.upsamplers or ():
            features = upsampler(features)
    return decoder.conv_out(functional.silu(decoder.conv_norm_out(features)))


def _pair(before: Any, after: Any, norm: nn.GroupNorm) -> None:
    """Features between two convolutions as x and -x, because silu(x) - silu(-x) is x."""
    size = norm.num_channels // norm.num_groups
    for first in range(0, norm.num_channels, size):
        half = (size - 2) // 2
        before.weight[first + half : first + 2 * half] = -before.weight[first : first + half]
        after.weight[:, first + half : first + 2 * half] = -after.weight[:, first : first + half]


def _begin(convolution: Any, norm: nn.GroupNorm, after: Literal["linear", "relu"]) -> None:
    """Random weights, and no offsets but constants for the next norm. after: what the convolution follows."""
    nn.init.kaiming_normal_(convolution.weight, nonlinearity=after)
    nn.init.zeros_(convolution.bias)
    for first in _last_two(norm):
        nn.init.zeros_(convolution.weight[first : first + 2])
        convolution.bias[first], convolution.bias[first + 1] = CONSTANT, -CONSTANT


def _identity(norm: Any) -> None:
    """For what is small beside the constants, which end here."""
    size = norm.num_channels // norm.num_groups
    norm.weight.fill_(CONSTANT * (2 / size) ** 0.5)
    for first in _last_two(norm):
        norm.weight[first : first + 2] = 0.0


def _last_two(norm: nn.GroupNorm) -> range:
    """The first of the last two channels of every group."""
    size = norm.num_channels // norm.num_groups
    return range(size - 2, norm.num_channels, size)
