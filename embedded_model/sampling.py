"""Rectified flow for the edit model: x_t = (1 - sigma) * picture + sigma * noise, and Euler steps towards sigma 0."""

import itertools

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from serve.families.pixel_edit_unet import PixelEditUNet, latents_to_pixels, pixels_to_latents

DEFAULT_STEPS = 8


def add_noise(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """latents, noise (B, C, h, w); sigma (B,) in [0, 1]."""
    level = sigma[:, None, None, None]
    return (1 - level) * latents + level * noise


def partial_edit_target(source: Tensor, edited: Tensor, sigma: Tensor, mix: Tensor) -> Tensor:
    """What the model should predict when the noisy latents show only the fraction `mix` of the edit.

    Sampling that starts from the source at sigma s then ends at the fraction s of the edit: on the way, at sigma t,
    the latents show mix = (s - t) / (1 - t), for which t + (1 - t) * mix = s is the target at every step.
    """
    return torch.lerp(source, edited, (sigma + (1 - sigma) * mix)[:, None, None, None])


@torch.inference_mode()
def encode_text(
    tokenizer: PreTrainedTokenizerBase, encoder: T5EncoderModel, prompts: list[str], length: int
) -> tuple[Tensor, Tensor]:
    """Hidden states (B, length, D) and attention mask (B, length)."""
    tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    tokens = tokens.to(encoder.device)
    hidden = encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    return hidden, tokens["attention_mask"]


@torch.inference_mode()
def edit_latents(
    denoiser: PixelEditUNet,
    source: Tensor,
    text: Tensor,
    text_mask: Tensor,
    noise: Tensor,
    steps: int = DEFAULT_STEPS,
    strength: float = 1.0,
    shift: float = 1.0,
) -> Tensor:
    """The edited latents. source, noise (B, C, h, w); strength in (0, 1]: the part of the steps that is run."""
    sigmas = schedule(steps, shift)[steps - max(1, int(steps * strength)) :].to(source.device)
    latents = add_noise(source, noise, sigmas[:1].expand(len(source)))
    for sigma, sigma_next in itertools.pairwise(sigmas):
        predicted = denoiser(latents, source, sigma.expand(len(source)), text, text_mask)
        latents = torch.lerp(predicted, latents, sigma_next / sigma)
    return latents


def schedule(steps: int, shift: float) -> Tensor:
    """The sigmas of the scheduler that ships with the checkpoint: (steps + 1,), from 1 to 0."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
    return torch.as_tensor(scheduler.sigmas, dtype=torch.float32)


def to_latents(pictures: list[Image.Image], patch_size: int) -> Tensor:
    """RGB pictures of one size to (B, C, h, w), channels-last."""
    pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures])).permute(0, 3, 1, 2)
    latents = pixels_to_latents(pixels.float() / 127.5 - 1, patch_size)
    return latents.contiguous(memory_format=torch.channels_last)


def to_pictures(latents: Tensor, patch_size: int) -> list[Image.Image]:
    pixels = ((latents_to_pixels(latents.float(), patch_size).clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(p.permute(1, 2, 0).cpu().numpy()) for p in pixels]
