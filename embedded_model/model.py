"""What is trained together, its weights' moving average, and the state file from which a training resumes."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from embedded_model.batches import EDIT_NAMES
from embedded_model.tokenizer import END, PAD
from serve.families.pixel_edit_unet import PixelEditUNet


class TrainedModel(nn.Module):
    """Denoiser, text encoder, and a classifier of the edits that only helps the text encoder to learn sooner."""

    def __init__(self, denoiser: PixelEditUNet, text_encoder: T5EncoderModel) -> None:
        super().__init__()
        self.denoiser, self.text_encoder = denoiser, text_encoder
        self.classifier = nn.Linear(denoiser.config["conditioning_dim"], len(EDIT_NAMES))


def new_model(tokenizer: PreTrainedTokenizerFast) -> TrainedModel:
    denoiser = PixelEditUNet()
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=denoiser.config["text_dim"],
            d_kv=48,
            d_ff=384,
            num_layers=4,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            pad_token_id=tokenizer.get_vocab()[PAD],
            eos_token_id=tokenizer.get_vocab()[END],
        )
    )
    return TrainedModel(denoiser, encoder)


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes during training; `average` is what is exported."""

    model: TrainedModel
    average: TrainedModel
    optimizer: torch.optim.Optimizer

    def save(self, path: Path, step: int) -> None:
        """Replaces the file whole, so that a stop in the middle leaves the former one."""
        state = {
            "step": step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path, device: torch.device) -> int:
        """The number of steps already taken: 0 when there is no file yet."""
        if not path.exists():
            return 0
        state = torch.load(path, map_location=device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]


def new_state(tokenizer: PreTrainedTokenizerFast, device: torch.device, weight_decay: float) -> TrainingState:
    model = new_model(tokenizer).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=weight_decay)
    return TrainingState(model, copy.deepcopy(model).requires_grad_(False), optimizer)


@torch.no_grad()
def update_average(average: TrainedModel, model: TrainedModel, decay: float) -> None:
    """Exponential moving average of the weights, in place; only the average is exported."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
