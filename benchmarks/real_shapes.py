"""The configurations of FLUX.1 Kontext that fix its tensors' shapes
(https://huggingface.co/black-forest-labs/FLUX.1-Kontext-dev)."""

from typing import Any

REAL_TEXT_TOKENS = 512
REAL_SUMMARY_TOKENS = 77
"""CLIP's; it reads fewer than T5."""
CLIP_WORDS = 49408
T5_WORDS = 32128
TOKEN_PIXELS = 16

FLUX_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
REAL_AUTOENCODER: dict[str, Any] = {
    **FLUX_AUTOENCODER,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
REAL_TRANSFORMER: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
