"""The training loop: predicts the edited crop from noise, the source crop and the instruction.

`torchrun --nproc-per-node 2 -m embedded_model train` goes from nothing to `checkpoint/` on two cores, or two GPUs;
`python -m embedded_model train` does so with one. Run again, it resumes from its last state.
"""

import csv
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from embedded_model import parallel
from embedded_model.batches import Batch, EditBatches
from embedded_model.data import held_out_photographs, training_photographs
from embedded_model.export import export_checkpoint
from embedded_model.grid import save_sample_grid
from embedded_model.model import TrainedModel, TrainingState, new_state, update_average
from embedded_model.sampling import add_noise, partial_edit_target
from embedded_model.tokenizer import train_tokenizer
from serve.families.pixel_edit_unet import PixelEditUNet, latents_to_pixels, pixels_to_latents

LOG = logging.getLogger(__name__)
STATE_FILE = "state.pt"
Denoise = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """`work`: cache, state, log and grids; `checkpoint`: where the finished model goes."""

    work: Path
    checkpoint: Path
    steps: int = 6_000
    batch_size: int = 64  # for each process
    crop_px: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 2e-5
    warmup_steps: int = 300
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    label_weight: float = 0.02
    seed: int = 0
    threads: int = 1
    workers: int = 0  # data workers; a GPU needs several
    compile: bool = False
    log_every: int = 20
    save_every: int = 500


def train(config: TrainingConfig) -> None:
    """Trains to `config.steps`, resuming from `work/state.pt` if it exists, then exports the averaged weights."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    parallel.start()
    if parallel.RANK == 0:
        prepare(config)
    parallel.wait_for_all()
    device = torch.device("cuda", parallel.RANK) if torch.cuda.is_available() else torch.device("cpu")
    tokenizer = _tokenizer(config)
    state = new_state(tokenizer, device, config.weight_decay)
    first_step = state.load(config.work / STATE_FILE, device)
    denoise: Denoise = torch.compile(state.model.denoiser, dynamic=False) if config.compile else state.model.denoiser
    log = LossLog(config.work / "loss.csv", config.log_every)
    for step, batch in _batches(config, tokenizer, first_step):
        loss, label_loss = update(state, denoise, batch.to(device), step, config)
        if parallel.RANK == 0:
            log.add(step, loss, label_loss)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                state.save(config.work / STATE_FILE, step + 1)
                save_sample_grid(state.average, tokenizer, config.work, step + 1)
    if parallel.RANK == 0:
        export_checkpoint(state.average.denoiser, state.average.text_encoder, tokenizer, config.checkpoint)
    parallel.stop()


def update(
    state: TrainingState, denoise: Denoise, batch: Batch, step: int, config: TrainingConfig
) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns the losses of this process's batch."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    noise_seed = config.seed + step * parallel.PROCESSES + parallel.RANK
    loss, label_loss = losses(state.model, denoise, batch, noise_seed)
    state.optimizer.zero_grad(set_to_none=True)
    (loss + config.label_weight * label_loss).backward()
    parallel.average_gradients(state.model)
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    update_average(state.average, state.model, min(config.ema_decay, (1 + step) / (10 + step)))
    return loss, label_loss


def prepare(config: TrainingConfig) -> None:
    """Fetches the pictures and trains the tokenizer, before several processes read them."""
    config.work.mkdir(parents=True, exist_ok=True)
    training_photographs(config.work / "cache")
    held_out_photographs(config.work / "cache")
    _tokenizer(config)


def losses(model: TrainedModel, denoise: Denoise, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
    """The error of the predicted latents, and the cross entropy of the edit's labels."""
    patch_size = model.denoiser.config["patch_size"]
    source, edited = (pixels_to_latents(p, patch_size) for p in (batch.source, batch.edited))
    generator = torch.Generator(source.device).manual_seed(seed)
    noise = torch.randn(source.shape, generator=generator, device=source.device)
    noisy = add_noise(torch.lerp(source, edited, batch.shown[:, None, None, None]), noise, batch.sigma)
    target = partial_edit_target(source, edited, batch.sigma, batch.asked)
    with torch.autocast(source.device.type, torch.bfloat16):
        text = model.text_encoder(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        predicted = denoise(_channels_last(noisy), _channels_last(source), batch.sigma, text, batch.mask)
        labels = model.classifier(model.denoiser.text_pool(text, batch.mask))
    label_loss = functional.binary_cross_entropy_with_logits(labels.float(), batch.labels, reduction="none").sum(1)
    return picture_loss(latents_to_pixels(predicted.float() - target, patch_size)), label_loss.mean()


def picture_loss(error: Tensor) -> Tensor:
    """Mean absolute, mean squared, and edge error; error (B, 3, H, W). Without the last, a blur is hardly an error."""
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + edges


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Warm-up, then constant for two thirds, then a line down: a run can be lengthened before the line begins."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = min(1.0, (config.steps - step) / (config.steps / 3))
    return max(config.final_learning_rate, config.learning_rate * min(warm, left))


class LossLog:
    """Appends the mean losses of every `every` steps to a CSV file."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.rows: list[Tensor] = []
        self.started = time.monotonic()

    def add(self, step: int, loss: Tensor, label_loss: Tensor) -> None:
        self.rows.append(torch.stack([loss.detach(), label_loss.detach()]))
        if (step + 1) % self.every:
            return
        means = torch.stack(self.rows).mean(0).tolist()
        seconds = (time.monotonic() - self.started) / len(self.rows)
        if not self.path.exists():
            self.path.write_text("step,loss,label_loss,seconds_per_step\n")
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step + 1, *(f"{m:.5f}" for m in means), f"{seconds:.4f}"])
        LOG.info("step %d loss %.4f label loss %.4f, %.3f s a step", step + 1, *means, seconds)
        if not math.isfinite(means[0]):
            raise FloatingPointError(f"the loss is {means[0]} at step {step + 1}")
        self.rows, self.started = [], time.monotonic()


def load_average(config: TrainingConfig) -> tuple[TrainedModel, PreTrainedTokenizerFast, int]:
    """The averaged weights of the last saved state, its tokenizer and its step."""
    tokenizer = _tokenizer(config)
    device = torch.device("cpu")
    state = new_state(tokenizer, device, config.weight_decay)
    step = state.load(config.work / STATE_FILE, device)
    return state.average, tokenizer, step


def _batches(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerFast, first_step: int
) -> Iterator[tuple[int, Batch]]:
    photographs = training_photographs(config.work / "cache")
    dataset = EditBatches(photographs, tokenizer, config.batch_size, config.crop_px, config.seed)
    items = range(
        first_step * parallel.PROCESSES + parallel.RANK, config.steps * parallel.PROCESSES, parallel.PROCESSES
    )
    loader = DataLoader(dataset, batch_size=None, sampler=items, num_workers=config.workers)
    return zip(range(first_step, config.steps), loader, strict=True)


def _tokenizer(config: TrainingConfig) -> PreTrainedTokenizerFast:
    """Trained once and kept beside the state, so that a resumed run uses the same tokens."""
    folder = config.work / "tokenizer"
    if not folder.exists():
        train_tokenizer(PixelEditUNet().config["text_length"], config.seed).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
