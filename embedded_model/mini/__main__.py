"""`python -m embedded_model.mini words | decoder | edits | export`: the stages of the training, each going on where it
was.

`words` and `decoder` first, in any order, then `edits`; all keep their state, losses and pictures in `--work`, and
`export` writes what they have come to as a checkpoint. What has no state there is taken from the checkpoint; only with
new text encoders the transformer begins anew.
"""

import argparse
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch

from embedded_model.mini.autoencoder import DecoderStage
from embedded_model.mini.batches import EditBatches, Format, sentences
from embedded_model.mini.blocks import read_from
from embedded_model.mini.device import training_device
from embedded_model.mini.edit_stage import EditStage
from embedded_model.mini.evaluation.command import add_commands
from embedded_model.mini.export import export
from embedded_model.mini.loop import Run, Schedule, load_average, trained
from embedded_model.mini.network import Shape, kept_tokenizers, new_networks
from embedded_model.mini.photographs import Photographs
from embedded_model.mini.trained import (
    CHECKPOINT,
    TOKENIZED_SENTENCES,
    autoencoder_of,
    networks_of,
    text_encoders,
    tokenizers_of,
)
from embedded_model.mini.words_stage import WordsStage

WORK = Path(".cache/embedded_model")
FORMATS = (
    ((64, 64), 1, 0.02),
    ((128, 128), 4, 0.26),
    ((128, 192), 4, 0.03),
    ((192, 128), 4, 0.03),
    ((128, 128), 1, 0.04),
    ((256, 256), 2, 0.18),
    ((256, 384), 2, 0.04),
    ((384, 256), 2, 0.04),
    ((256, 256), 1, 0.08),
    ((512, 512), 1, 0.22),
    ((512, 1024), 1, 0.03),
    ((1024, 512), 1, 0.03),
)
"""Heights and widths in pixels, the stretch of their places, and how often each comes. Most have the places of 512 px.
Larger ones have fewer rows a batch, as many pixels."""
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


def _words(arguments: argparse.Namespace) -> None:
    device = training_device()
    tokenizers = kept_tokenizers(arguments.work / "tokenizers", partial(sentences, TOKENIZED_SENTENCES))
    encoders = text_encoders(new_networks(tokenizers, Shape()))
    stage = WordsStage(encoders, tokenizers, arguments.batch, device)
    Run(stage, _schedule(arguments), arguments.work / "words", device).train()


def _edits(arguments: argparse.Namespace) -> None:
    device = training_device()
    photographs = Photographs(arguments.work, device)
    tokenizers = tokenizers_of(arguments.work)
    formats = tuple(
        Format(size, _rows(arguments.batch, size), weight, stretch)
        for size, stretch, weight in FORMATS
        if max(size) <= arguments.longest_side
    )
    batches = EditBatches(photographs, tokenizers, formats, device, arguments.seed)
    autoencoder: Any = autoencoder_of(arguments.work)
    transform = read_from(autoencoder.to(device).encoder)
    networks = networks_of(arguments.work, tokenizers)
    stage = EditStage(batches, photographs, transform, autoencoder, tokenizers, networks, arguments.levels, device)
    Run(stage, _schedule(arguments), arguments.work / "edits", device).train()


def _export(arguments: argparse.Namespace) -> None:
    learned = trained(arguments.work / "edits")
    if trained(arguments.work / "words") and not learned:
        raise SystemExit("No transformer has learned with these text encoders yet: run `edits` first.")
    tokenizers = tokenizers_of(arguments.work)
    networks = networks_of(arguments.work, tokenizers)
    if learned:
        load_average(networks, arguments.work / "edits")
    export(networks, autoencoder_of(arguments.work), tokenizers, arguments.checkpoint)
    logging.info("wrote %s", arguments.checkpoint)


def _rows(batch: int, size: tuple[int, int]) -> int:
    return max(1, batch * PIXELS_OF_A_ROW // math.prod(size))


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
    words = _training(commands.add_parser("words", help="train the text encoders"), 2_000, 256, 1e-3)
    words.set_defaults(run=_words)
    decoder = _training(commands.add_parser("decoder", help="train the autoencoder's decoder"), 12_000, 16, 2e-3)
    decoder.add_argument("--straight-steps", type=int, default=2_000, help="without residual branches, which are first")
    decoder.set_defaults(run=_decoder)
    edits = _training(commands.add_parser("edits", help="train the transformer"), 40_000, 32, 5e-4)
    edits.add_argument("--levels", type=int, default=1, help="of noise that each pair is seen at. A GPU takes 4")
    edits.add_argument("--longest-side", type=int, default=1024, help="of the pictures, in pixels; at least 64")
    edits.set_defaults(run=_edits)
    exporting = commands.add_parser("export", help="write a checkpoint of what is trained")
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
