"""What training has come to, through diffusers' own pipeline: nothing here knows how an edit is sampled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from torch import Tensor, nn

from embedded_model.mini.autoencoder import scale_of
from embedded_model.mini.network import TEXT_TOKENS, Tokenizers, scaled

STEPS = 8
GUIDANCE = 1.0


def pipeline_of(networks: nn.ModuleDict, autoencoder: AutoencoderKL, tokenizers: Tokenizers) -> FluxKontextPipeline:
    """Of networks that learn in the transform's latents. Noise levels fall in a straight line, at every size."""
    parts: Any = networks
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder,
        text_encoder=parts["text_encoder"],
        tokenizer=tokenizers.clip,
        text_encoder_2=parts["text_encoder_2"],
        tokenizer_2=tokenizers.t5,
        transformer=scaled(parts["transformer"], scale_of(autoencoder)),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def edited(
    pipeline: FluxKontextPipeline, pictures: Tensor, prompts: Sequence[str], steps: int = STEPS, seed: int = 0
) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], each by its own prompt, to edited ones."""
    height, width = pictures.shape[2:]
    generator = torch.Generator("cpu").manual_seed(seed)
    answer: Any = pipeline(
        image=pictures,
        prompt=list(prompts),
        height=height,
        width=width,
        max_area=height * width,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        max_sequence_length=TEXT_TOKENS,
        generator=generator,
        output_type="np",
    )
    return torch.from_numpy(np.asarray(answer.images)).permute(0, 3, 1, 2)
