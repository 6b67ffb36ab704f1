"""The denoiser of the pixel-edit family: a small convolutional U-Net that predicts the edited picture itself.

The latents are the RGB picture folded into cells of `patch_size` x `patch_size` pixels, so nothing is lost and no
autoencoder is needed. The network answers "the source plus a change": a colour transform for each cell (as in
bilateral-grid retouching, Gharbi et al. 2017) of the source, which keeps every edge sharp, and of a smoothed source,
which can take edges away, plus a free residual. The last layer starts at zero, so an untrained network is the identity.

Nothing looks at a batch neighbour, and normalisation is over the channels of one position, so a network trained on
small crops works on whole pictures.
"""

import itertools
import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

RGB = 3
UP = 2


def pixels_to_latents(pixels: Tensor, patch_size: int) -> Tensor:
    """Folds cells into channels: pixels (B, 3, H, W) in [-1, 1] to latents (B, 3 * patch_size^2, H/patch, W/patch)."""
    return functional.pixel_unshuffle(pixels, patch_size)


def latents_to_pixels(latents: Tensor, patch_size: int) -> Tensor:
    """The exact inverse of `pixels_to_latents`; the result is not clamped."""
    return functional.pixel_shuffle(latents, patch_size)


class PixelEditUNet(ModelMixin, ConfigMixin):
    """Predicts the clean edited latents from noisy latents, the source's latents, the noise level and the text.

    `patch_size`: side of a latent cell in pixels. `prediction_type`: always "sample" (x0). `size_multiple`: height and
    width in pixels must be multiples of it. `text_length`: tokens the text encoder was trained with.
    """

    @register_to_config
    def __init__(
        self,
        patch_size: int = 4,
        channels: tuple[int, ...] = (64, 128, 192),
        blocks_per_level: int = 2,
        middle_blocks: int = 1,
        conditioning_dim: int = 256,
        text_dim: int = 192,
        text_length: int = 32,
        text_heads: int = 4,
        sigma_frequencies: int = 32,
        prediction_type: str = "sample",
        size_multiple: int = 16,
    ) -> None:
        super().__init__()
        latent_channels = RGB * patch_size**2
        self.text_pool = TextPool(text_dim, text_heads, conditioning_dim)
        self.sigma_embedding = SigmaEmbedding(sigma_frequencies, conditioning_dim)
        self.colour_statistics = ColourStatistics(conditioning_dim)
        self.conditioning = nn.Sequential(nn.SiLU(), nn.Linear(conditioning_dim, conditioning_dim), nn.SiLU())
        self.inlet = nn.Conv2d(2 * latent_channels, channels[0], 3, padding=1)

        def level(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, conditioning_dim) for _ in range(blocks_per_level))

        pairs = list(itertools.pairwise(channels))
        self.encoder = nn.ModuleList(level(width) for width in channels)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.global_context = GlobalContext(channels[-1])
        self.middle = nn.ModuleList(ResidualBlock(channels[-1], conditioning_dim) for _ in range(middle_blocks))
        self.up = nn.ModuleList(Unfolded(coarse, fine, UP, stride=UP) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(level(width) for width in channels)
        self.outlet = ColourAndResidualHead(channels[0], latent_channels, conditioning_dim)

    def forward(self, latents: Tensor, source: Tensor, sigma: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """The predicted clean latents (B, C, h, w).

        latents, source: (B, C, h, w), pixels in [-1, 1]; sigma: (B,), 1 is noise and 0 the picture;
        text: (B, L, text_dim) encoder hidden states; text_mask: (B, L), true or 1 where there is a token.
        """
        statistics = self.colour_statistics(latents, source, sigma)
        condition = self.conditioning(self.text_pool(text, text_mask) + self.sigma_embedding(sigma) + statistics)
        x = torch.cat([latents, source], dim=1).contiguous(memory_format=torch.channels_last)  # the norms' layout
        x = self.inlet(x)
        skips: list[Tensor] = []
        for depth, blocks in enumerate(self.encoder):
            if depth > 0:
                x = self.down[depth - 1](x)
            x = _through(blocks, x, condition)
            skips.append(x)
        x = _through(self.middle, self.global_context(x), condition)
        for depth in reversed(range(len(skips))):
            x = _through(self.decoder[depth], x + skips[depth], condition)
            if depth > 0:
                x = self.up[depth - 1](x)
        return self.outlet(x, source, condition)


class TextPool(nn.Module):
    """Attention pooling: each head weighs the tokens by a learned score, so filler words can be left out."""

    def __init__(self, text_dim: int, heads: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.score = nn.Linear(text_dim, heads)
        self.project = nn.Linear(heads * text_dim, out_dim)

    def forward(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """text (B, L, D), text_mask (B, L) to (B, out_dim)."""
        text = self.norm(text)
        absent = (text_mask == 0).unsqueeze(-1)
        weights = self.score(text).masked_fill(absent, -1e4).softmax(dim=1)
        pooled = weights.transpose(1, 2) @ text
        return self.project(pooled.flatten(1))


class SigmaEmbedding(nn.Module):
    """Sines and cosines of the noise level, from one half period to `2^6` of them over [0, 1]."""

    def __init__(self, frequencies: int, out_dim: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.project = nn.Sequential(nn.Linear(2 * frequencies, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (B,) in [0, 1] to (B, out_dim)."""
        octaves = torch.linspace(0.0, 6.0, self.frequencies, device=sigma.device, dtype=torch.float32)
        angles = sigma.float()[:, None] * (math.pi * torch.exp2(octaves))[None, :]
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.project(waves.to(sigma.dtype))


class ColourStatistics(nn.Module):
    """How the colours of the noisy picture relate to the source's: means, and covariances over all pixels.

    They show how much of an edit the noisy picture already holds. Averages over a whole picture see through noise that
    a convolution's few cells do not, and a product of noisy picture and source is what no convolution computes.
    """

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(2 * RGB + 2 * RGB * RGB, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim)
        )
        last = self.project[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(_bias(last))

    def forward(self, latents: Tensor, source: Tensor, sigma: Tensor) -> Tensor:
        """latents, source (B, C, h, w), sigma (B,) to (B, out_dim)."""
        visible = (1 - sigma.float()).clamp(min=0.1)[:, None, None]  # the share of the picture in the noisy latents
        content, pixels = _colours(latents) / visible, _colours(source)
        content_mean, pixels_mean = content.mean(dim=2, keepdim=True), pixels.mean(dim=2, keepdim=True)
        centred = pixels - pixels_mean
        weighted = (centred / pixels.shape[2]).transpose(1, 2)
        moments = [content_mean, pixels_mean, 4 * (content - content_mean) @ weighted, 4 * centred @ weighted]
        return self.project(torch.cat([m.flatten(1) for m in moments], dim=1).to(sigma.dtype))


class ResidualBlock(nn.Module):
    """Channel normalisation, scale and shift from the condition (FiLM), two 3x3 convolutions, and the skip."""

    def __init__(self, width: int, conditioning_dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.film = nn.Linear(conditioning_dim, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(_bias(self.second))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, width, h, w), condition (B, conditioning_dim) to (B, width, h, w)."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(x) * (1 + scale) + shift
        return x + self.second(functional.silu(self.first(h)))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position: independent of the picture's size, unlike GroupNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Unfolded(nn.ConvTranspose2d):
    """A transposed convolution whose strides equal its kernel, so that no two outputs meet: a linear map of each cell,
    unfolded. That is how it is computed, since compilers lack transposed convolutions in some precisions."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, coarse, h, w) to (B, fine, UP h, UP w)."""
        weight = self.weight.permute(1, 2, 3, 0).flatten(0, 2)[:, :, None, None]
        bias = _bias(self).repeat_interleave(UP * UP)
        return functional.pixel_shuffle(functional.conv2d(input, weight, bias), UP)


class GlobalContext(nn.Module):
    """Adds the picture's mean features to every position: the amount of edit already present is a global fact."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.mean(dim=(2, 3)))[:, :, None, None]


class ColourAndResidualHead(nn.Module):
    """Source plus change: for each cell a 3x7 transform of its colours, smoothed colours and 1, and a free residual.

    The condition also reaches the transform directly: most tone edits are nearly the same for the whole picture.
    """

    def __init__(self, width: int, latent_channels: int, conditioning_dim: int) -> None:
        super().__init__()
        outputs = RGB * (2 * RGB + 1) + latent_channels
        self.norm = ChannelNorm(width)
        self.film = nn.Linear(conditioning_dim, 2 * width)
        self.change = nn.Conv2d(width, outputs, 3, padding=1)
        self.whole_picture = nn.Linear(conditioning_dim, outputs)
        for layer in (self.film, self.change, self.whole_picture):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(_bias(layer))

    def forward(self, x: Tensor, source: Tensor, condition: Tensor) -> Tensor:
        """x (B, width, h, w) features, source (B, C, h, w) clean latents to the predicted latents (B, C, h, w)."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        local = self.change(self.norm(x) * (1 + scale) + shift)
        change = (local + self.whole_picture(condition)[:, :, None, None]).to(source.dtype)
        gains, offsets, residual = change.split([2 * RGB * RGB, RGB, source.shape[1]], dim=1)
        colours = torch.cat([_by_colour(source), _by_colour(_smoothed(source))], dim=1)  # (B, 6, patch^2, h, w)
        toned = offsets.unsqueeze(2)
        for c in range(2 * RGB):
            toned = toned + gains[:, RGB * c : RGB * (c + 1), None] * colours[:, c : c + 1]
        return source + toned.flatten(1, 2) + residual


def _smoothed(latents: Tensor) -> Tensor:
    """The cells' mean colours, interpolated between their centres: about a Gaussian blur of half a cell."""
    patch_size = math.isqrt(latents.shape[1] // RGB)
    means = _by_colour(latents).mean(dim=2)
    pixels = functional.interpolate(means, scale_factor=float(patch_size), mode="bilinear", align_corners=False)
    return functional.pixel_unshuffle(pixels, patch_size)


def _by_colour(latents: Tensor) -> Tensor:
    """(B, 3 * patch^2, h, w) to (B, 3, patch^2, h, w): pixel_unshuffle keeps the pixels of a colour together."""
    return latents.unflatten(1, (RGB, -1))


def _colours(latents: Tensor) -> Tensor:
    """(B, 3 * patch^2, h, w) to (B, 3, pixels), in float32: sums over a large picture."""
    return _by_colour(latents).flatten(2).float()


def _through(blocks: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, condition)
    return x


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
