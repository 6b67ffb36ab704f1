"""The last stage: the transformer learns all edits together, in the autoencoder's latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from embedded_model.mini.autoencoder import scale_of
from embedded_model.mini.batches import TWO_IMAGES, Batch, EditBatches
from embedded_model.mini.blocks import BLOCK, BlockTransform
from embedded_model.mini.device import ahead, attention, autocast, blocks_compiled
from embedded_model.mini.flow import MOST_OWN_STEPS, draw, noisy_and_velocity, rest_of_the_way, sampled
from embedded_model.mini.network import Tokenizers
from embedded_model.mini.pairs import GROUPS
from embedded_model.mini.photographs import Photographs
from embedded_model.mini.places import positions, spread
from embedded_model.mini.sampling import edited, pipeline_of
from embedded_model.mini.seeds import seed_of
from embedded_model.mini.sheet import examples, stacked, strip
from serve.families.flux_kontext_components import PACK


class EditStage:
    """Rows of a batch share a shape; noise, levels and batch follow from the step's number."""

    def __init__(
        self,
        batches: EditBatches,
        photographs: Photographs,
        transform: BlockTransform,
        autoencoder: AutoencoderKL,
        tokenizers: Tokenizers,
        networks: nn.ModuleDict,
        levels: int,
        device: torch.device,
    ) -> None:
        """transform: what the autoencoder's encoder computes. photographs, autoencoder: to show what was learned.
        networks: transformer and text encoders; what requires no gradients stays as it is.

        levels: at how many levels of noise each pair is seen. A large GPU computes faster than pairs are made.
        """
        self._batches = ahead(batches, device)
        self._transform, self._autoencoder, self._tokenizers = transform, autoencoder, tokenizers
        self._photographs, self._levels, self._device = photographs, levels, device
        self._noise = 1 / scale_of(autoencoder)
        self._seen = how_much_is_seen(transform).to(device).repeat_interleave(PACK**2)
        self.modules = networks.to(device)
        transformer: Any = self.modules["transformer"]
        words: Any = self.modules["text_encoder_2"]
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks, *words.encoder.block]
        layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]
        self.matrices = [layer.weight for layer in layers]
        blocks_compiled(transformer, device)

    def losses(self, step: int) -> Mapping[str, Tensor]:
        batch = self._batches(step)
        generator = torch.Generator(self._device).manual_seed(seed_of("noise", step))
        source, target = self._latents(batch.source), self._latents(batch.target)
        pictures = [source] if batch.reference is None else [source, self._latents(batch.reference)]
        drawn = draw(self._levels * len(source), self._often(batch.gradual), generator)
        shape = (len(drawn.sigma), *source.shape[1:])
        noise = self._noise * torch.randn(shape, generator=generator, device=self._device)
        target = self._often(target)
        noisy, velocity = noisy_and_velocity(self._often(source), target, noise, drawn)
        axes = spread(source, batch.stretch, torch.Generator().manual_seed(seed_of("places", step)))
        asked = self._asked(batch, pictures, positions(source, pictures, axes).to(self._device))
        if len(own := drawn.own.nonzero().flatten()):
            noisy[own] = self._sampled(noise[own], drawn.sigma[own], asked.of(own), generator)
            velocity[own] = rest_of_the_way(noisy[own], target[own], drawn.sigma[own])
        error = pack(self._velocity(noisy, drawn.sigma, asked) - velocity)
        counted = self._often(pack(functional.max_pool2d(batch.counted, BLOCK)).mean(2, keepdim=True))
        rows = (error.square() * self._seen * counted).mean((1, 2)) / counted.mean((1, 2))
        rows = torch.where(drawn.own, drawn.sigma.square(), 1.0) * rows  # near the end, what mends a mistake is large
        groups = batch.groups * self._levels
        of_groups = {name: rows[[group == name for group in groups]].mean() for name in dict.fromkeys(groups)}
        return {"loss": rows.mean(), f"{batch.source.shape[3]}x{batch.source.shape[2]}": rows.mean(), **of_groups}

    def show(self, average: nn.ModuleDict, file: Path) -> None:
        """Of each group with one image; the pipeline of diffusers takes no second one."""
        pipeline = pipeline_of(average, self._autoencoder, self._tokenizers)
        strips: list[Image.Image] = []
        for group in (name for name in GROUPS if name != TWO_IMAGES):
            source, target, asked = examples(self._photographs, group, self._device)
            strips.append(strip(source, target, edited(pipeline, source, asked), asked))
        stacked(strips, file)

    def _latents(self, pixels: Tensor) -> Tensor:
        return self._transform.encode(pixels * 2 - 1)

    def _often(self, rows: Tensor) -> Tensor:
        """Each row once for every level."""
        return rows.repeat(self._levels, *[1] * (rows.dim() - 1))

    def _asked(self, batch: Batch, pictures: Sequence[Tensor], places: Tensor) -> "_Asked":
        with autocast(self._device), attention(self._device):
            pooled = self.modules["text_encoder"](input_ids=batch.clip_ids).pooler_output
            text = self.modules["text_encoder_2"](input_ids=batch.t5_ids).last_hidden_state
        rows = (*pictures, batch.guidance, pooled, text)
        *shown, guidance, pooled, text = (self._often(tensor) for tensor in rows)
        return _Asked(shown, places, guidance, pooled, text)

    @torch.no_grad()
    def _sampled(self, noise: Tensor, sigma: Tensor, asked: "_Asked", generator: torch.Generator) -> Tensor:
        steps = int(torch.randint(1, MOST_OWN_STEPS + 1, (), generator=generator, device=self._device))
        return sampled(noise, sigma, steps, lambda latents, levels: self._velocity(latents, levels, asked))

    def _velocity(self, noisy: Tensor, sigma: Tensor, asked: "_Asked") -> Tensor:
        """(B, C, h, w) float32, as the noisy latents."""
        tokens = [pack(picture) for picture in (noisy, *asked.pictures)]
        with autocast(self._device), attention(self._device):
            velocity = self.modules["transformer"](
                hidden_states=torch.cat(tokens, dim=1),
                timestep=sigma,
                guidance=asked.guidance,
                pooled_projections=asked.pooled,
                encoder_hidden_states=asked.text,
                txt_ids=torch.zeros(asked.text.shape[1], 3, device=self._device),
                img_ids=asked.places,
                return_dict=False,
            )[0]
        return unpack(velocity[:, : tokens[0].shape[1]].float(), noisy.shape[2] // PACK)


@dataclass(frozen=True)
class _Asked:
    """What is told of each row: latents of the pictures that are shown, guidance, and the text by both encoders.

    places: `positions`, of all rows alike.
    """

    pictures: Sequence[Tensor]
    places: Tensor
    guidance: Tensor
    pooled: Tensor
    text: Tensor

    def of(self, rows: Tensor) -> "_Asked":
        shown = [picture[rows] for picture in self.pictures]
        return _Asked(shown, self.places, self.guidance[rows], self.pooled[rows], self.text[rows])


def how_much_is_seen(transform: BlockTransform) -> Tensor:
    """(LATENT_CHANNELS,), 1 in the mean: what an error of a channel counts, between all alike and as pixels show it.

    Light and dark are one channel of 32, and most of what is seen.
    """
    seen = transform.weights.square().sum((1, 2, 3)).rsqrt()
    return seen / seen.mean()


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) to tokens (B, h/2 * w/2, 4 C), as FLUX does."""
    return functional.pixel_unshuffle(latents, PACK).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """Tokens of so many rows to latents: undoes `pack`."""
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, -1)), PACK)
