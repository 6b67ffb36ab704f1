"""The command line: `python -m embedded_model train | export | evaluate | gallery`."""

import argparse
import logging
from pathlib import Path

from embedded_model.data import held_out_photographs
from embedded_model.editors import CheckpointEditor, HttpEditor
from embedded_model.evaluate import evaluate
from embedded_model.export import export_checkpoint
from embedded_model.gallery import draw_gallery
from embedded_model.sampling import DEFAULT_STEPS
from embedded_model.train import TrainingConfig, load_average, train

CHECKPOINT = Path(__file__).parent / "checkpoint"
WORK = Path(".cache/embedded_model")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    arguments = _parser().parse_args()
    arguments.run(arguments)


def _train(arguments: argparse.Namespace) -> None:
    train(_training_config(arguments))


def _export(arguments: argparse.Namespace) -> None:
    model, tokenizer, step = load_average(_training_config(arguments))
    export_checkpoint(model.denoiser, model.text_encoder, tokenizer, arguments.checkpoint)
    logging.info("wrote step %d to %s", step, arguments.checkpoint)


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.url:
        editor = HttpEditor(arguments.url, arguments.model)
    else:
        editor = CheckpointEditor(arguments.checkpoint, arguments.steps)
    photographs = held_out_photographs(arguments.work / "cache")
    evaluate(editor, photographs, arguments.wordings, arguments.out)


def _gallery(arguments: argparse.Namespace) -> None:
    draw_gallery(arguments.url, arguments.out)


def _training_config(arguments: argparse.Namespace) -> TrainingConfig:
    names = set(TrainingConfig.__dataclass_fields__) & set(vars(arguments))
    return TrainingConfig(**{name: getattr(arguments, name) for name in names})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m embedded_model", description=__doc__)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="from nothing, or from the last state, to a checkpoint")
    training.add_argument("--work", type=Path, default=WORK)
    training.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    training.add_argument("--steps", type=int, default=TrainingConfig.steps)
    training.add_argument("--batch-size", type=int, default=TrainingConfig.batch_size)
    training.add_argument("--threads", type=int, default=TrainingConfig.threads)
    training.add_argument("--workers", type=int, default=TrainingConfig.workers, help="data workers; 8 for a GPU")
    training.add_argument("--compile", action="store_true", help="compile the denoiser (for a GPU)")
    training.set_defaults(run=_train)
    exporting = commands.add_parser("export", help="write the last saved state of a training as a checkpoint")
    exporting.add_argument("--work", type=Path, default=WORK)
    exporting.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    exporting.set_defaults(run=_export)
    evaluating = commands.add_parser("evaluate", help="figures and a contact sheet, over HTTP or from a checkpoint")
    evaluating.add_argument(
        "--url", help="a running server, as http://127.0.0.1:8000; without it the checkpoint is run"
    )
    evaluating.add_argument("--model", default="retouch-tiny", help="the model's name on that server")
    evaluating.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    evaluating.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="sampling steps, without --url")
    evaluating.add_argument("--wordings", type=int, default=2, help="sentences an edit and photograph")
    evaluating.add_argument("--work", type=Path, default=WORK)
    evaluating.add_argument("--out", type=Path, required=True, help="folder for report.json and sheet.png")
    evaluating.set_defaults(run=_evaluate)
    drawing = commands.add_parser("gallery", help="the README's picture, by a running server")
    drawing.add_argument("--url", default="http://127.0.0.1:8000")
    drawing.add_argument("--out", type=Path, default=Path(__file__).parent / "edits.jpg")
    drawing.set_defaults(run=_gallery)
    return parser


if __name__ == "__main__":
    main()
