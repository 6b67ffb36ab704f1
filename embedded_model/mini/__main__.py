"""`python -m embedded_model.mini decoder | edits | export`: the stages of the training, each going on where it was.

`decoder` first, then `edits`, which may begin before it has ended; both keep their state, losses and pictures in
`--work`, and `export` writes what they have come to as a checkpoint.
"""

import argparse
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from embedded_model.mini.autoencoder import DecoderStage, fitted_transform, new_autoencoder
from embedded_model.mini.batches import EditBatches, Format, sentences
from embedded_model.mini.blocks import BlockTransform, write_into
from embedded_model.mini.device import training_device
from embedded_model.mini.edit_stage import EditStage
from embedded_model.mini.evaluation.command import add_commands
from embedded_model.mini.export import export
from embedded_model.mini.loop import Run, Schedule, load_average
from embedded_model.mini.network import Shape, Tokenizers, kept_tokenizers, new_networks
from embedded_model.mini.photographs import Photographs

WORK = Path(".cache/embedded_model")
CHECKPOINT = Path(__file__).parent / "checkpoint"
TOKENIZED_SENTENCES = 40_000
FORMATS = (
    ((64, 64), 0.1),
    ((128, 128), 0.28),
    ((256, 256), 0.3),
    ((256, 384), 0.05),
    ((384, 256), 0.05),
    ((512, 512), 0.18),
    ((512, 1024), 0.02),
    ((1024, 512), 0.02),
)
"""Heights and widths in pixels, and how often each comes. Larger ones have fewer rows a batch, as many pixels."""
PIXELS_OF_A_ROW = 128 * 128
"""Of those that `--batch` counts."""


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = _parser().parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")
    arguments.run(arguments)


def _decoder(arguments: argparse.Namespace) -> None:
    device = training_device()
    stage = DecoderStage(Photographs(arguments.work, device), arguments.batch, arguments.straight_steps, device)
    Run(stage, _schedule(arguments), arguments.work / "decoder", device).train()


def _edits(arguments: argparse.Namespace) -> None:
    device = training_device()
    photographs = Photographs(arguments.work, device)
    tokenizers = _tokenizers(arguments.work)
    formats = tuple(
        Format(size, _rows(arguments.batch, size), weight)
        for size, weight in FORMATS
        if max(size) <= arguments.longest_side
    )
    batches = EditBatches(photographs, tokenizers, formats, device, arguments.seed)
    transform = fitted_transform(photographs)
    autoencoder: Any = _autoencoder(arguments.work, transform)
    autoencoder.to(device)
    stage = EditStage(batches, photographs, transform, autoencoder, tokenizers, Shape(), arguments.levels, device)
    Run(stage, _schedule(arguments), arguments.work / "edits", device).train()


def _export(arguments: argparse.Namespace) -> None:
    tokenizers = _tokenizers(arguments.work)
    transform = fitted_transform(Photographs(arguments.work, torch.device("cpu")))
    networks = new_networks(tokenizers, Shape())
    steps = load_average(networks, arguments.work / "edits")
    export(networks, _autoencoder(arguments.work, transform), tokenizers, arguments.checkpoint)
    logging.info("wrote step %d to %s", steps, arguments.checkpoint)


def _autoencoder(work: Path, transform: BlockTransform) -> AutoencoderKL:
    """With the decoder as far as it is trained; as built, where it has not begun."""
    autoencoder = new_autoencoder()
    write_into(autoencoder.encoder, transform)
    if (work / "decoder" / "state.pt").exists():
        load_average(nn.ModuleDict({"decoder": autoencoder.decoder}), work / "decoder")
    return autoencoder.requires_grad_(False).eval()


def _rows(batch: int, size: tuple[int, int]) -> int:
    return max(1, batch * PIXELS_OF_A_ROW // math.prod(size))


def _tokenizers(work: Path) -> Tokenizers:
    return kept_tokenizers(work / "tokenizers", partial(sentences, TOKENIZED_SENTENCES))


def _schedule(arguments: argparse.Namespace) -> Schedule:
    return Schedule(arguments.steps, arguments.rate, save_every=arguments.save_every, minutes=arguments.minutes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embedded_model.mini", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    commands = parser.add_subparsers(required=True)
    decoder = _training(commands.add_parser("decoder", help="train the autoencoder's decoder"), 12_000, 16, 2e-3)
    decoder.add_argument("--straight-steps", type=int, default=2_000, help="without residual branches, which are first")
    decoder.set_defaults(run=_decoder)
    edits = _training(commands.add_parser("edits", help="train transformer and text encoders"), 40_000, 32, 5e-4)
    edits.add_argument("--levels", type=int, default=1, help="of noise that each pair is seen at. A GPU takes 4")
    edits.add_argument("--longest-side", type=int, default=1024, help="of the pictures, in pixels; at least 64")
    edits.set_defaults(run=_edits)
    exporting = commands.add_parser("export", help="write a checkpoint of the last saved states")
    exporting.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    exporting.set_defaults(run=_export)
    add_commands(commands, CHECKPOINT)
    return parser


def _training(parser: argparse.ArgumentParser, steps: int, batch: int, rate: float) -> argparse.ArgumentParser:
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch, help="rows; of edits those of 128 px. A GPU takes 512")
    parser.add_argument("--rate", type=float, default=rate, help="the learning rate")
    parser.add_argument("--minutes", type=float, help="end by then, the rate falling with the time")
    parser.add_argument("--save-every", type=int, default=500, help="steps")
    return parser


if __name__ == "__main__":
    main()
