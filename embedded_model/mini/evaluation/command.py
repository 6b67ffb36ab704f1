"""The commands `evaluate` and `gallery`."""

import argparse
import json
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from embedded_model.data import held_out_photographs
from embedded_model.mini.evaluation.cases import cases_of
from embedded_model.mini.evaluation.editor import Editor, HttpEditor, as_tensor
from embedded_model.mini.evaluation.evaluate import FeaturesOf, Outcome, Sweep, answers
from embedded_model.mini.evaluation.features import Features
from embedded_model.mini.evaluation.gallery import draw_gallery
from embedded_model.mini.evaluation.report import Report, Run, as_markdown, report_of
from embedded_model.mini.evaluation.scores import psnr_db
from embedded_model.mini.evaluation.sheet import contact_sheet
from embedded_model.mini.pairs import GROUPS
from serve.client import ClientError

LOG = logging.getLogger(__name__)
ROWS = 20
"""Of each group; with the sweeps about 350 edits, so that at 3 s an edit the evaluation takes 20 minutes."""
STYLES = "styles"
JPEG_QUALITY = 85
README_PICTURE = Path(__file__).parents[2] / "edits.jpg"


def add_commands(commands: Any, checkpoint: Path) -> None:
    """commands: argparse's sub-commands, to which these are added."""
    evaluating = commands.add_parser("evaluate", help="figures and contact sheets, by a running server")
    _add_server(evaluating)
    evaluating.add_argument("--checkpoint", type=Path, default=checkpoint, help="its autoencoder is measured here")
    evaluating.add_argument("--rows", type=int, default=ROWS, help="edits of each group")
    evaluating.add_argument("--groups", type=_groups, default=tuple(GROUPS), help="names with commas between")
    evaluating.add_argument("--out", type=Path, required=True, help="folder of report.json, report.md and GROUP.jpg")
    evaluating.set_defaults(run=_evaluate)
    drawing = commands.add_parser("gallery", help="the README's picture, by a running server")
    _add_server(drawing)
    drawing.add_argument("--out", type=Path, default=README_PICTURE, help="the JPEG to write")
    drawing.set_defaults(run=_gallery)


def evaluate(
    editor: Editor,
    photographs: Tensor,
    run: Run,
    groups: Sequence[str],
    rows: int,
    features: FeaturesOf | None,
    round_trip_db: Sequence[float] | None,
    out: Path,
) -> Report:
    """Writes a contact sheet of each group, and the report. photographs (B, 3, H, W) in [0, 1].

    features: compares what styles show; round_trip_db: of the photographs through the model's autoencoder.
    """
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    sweeps: list[Sweep] = []
    for name in groups:
        LOG.info("%s", name)
        cases = cases_of(name, GROUPS[name], photographs, rows, run.seed)
        answered = answers(editor, cases, features if name == STYLES else None)
        contact_sheet(answered).save(out / f"{name}.jpg", quality=JPEG_QUALITY)
        outcomes += [answer.outcome for answer in answered]
        sweeps += [sweep for answer in answered for sweep in answer.sweeps]
    report = report_of(run, outcomes, sweeps, round_trip_db)
    (out / "report.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    (out / "report.md").write_text(as_markdown(report))
    return report


@torch.no_grad()
def round_trips_db(checkpoint: Path, photographs: Tensor) -> list[float]:
    """PSNR of each photograph to what is left of it after the checkpoint's autoencoder."""
    autoencoder: Any = AutoencoderKL.from_pretrained(checkpoint, subfolder="vae", torch_dtype=torch.float32).eval()
    return [psnr_db(_there_and_back(autoencoder, photograph), photograph) for photograph in photographs]


def _there_and_back(autoencoder: Any, photograph: Tensor) -> Tensor:
    latents = autoencoder.encode(photograph[None] * 2 - 1).latent_dist.mode()
    return (autoencoder.decode(latents).sample[0] / 2 + 0.5).clamp(0, 1)


def _evaluate(given: argparse.Namespace) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    cache = given.work / "cache"
    photographs = torch.stack([as_tensor(image) for image in held_out_photographs(cache).values()])
    round_trip_db = round_trips_db(given.checkpoint, photographs)
    features = Features(cache) if STYLES in given.groups else None
    run = Run(given.model, given.seed, photographs.shape[-1], len(photographs))
    editor = HttpEditor(given.url, given.model)
    with _told_in_a_sentence():
        report = evaluate(editor, photographs, run, given.groups, given.rows, features, round_trip_db, given.out)
        print(as_markdown(report))


def _gallery(given: argparse.Namespace) -> None:
    with _told_in_a_sentence():
        draw_gallery(HttpEditor(given.url, given.model), given.out)


@contextmanager
def _told_in_a_sentence() -> Generator[None]:
    """That a server cannot be reached, or refuses, ends the command."""
    try:
        yield
    except ClientError as error:
        raise SystemExit(str(error)) from None


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running server")
    parser.add_argument("--model", default="retouch-tiny", help="the model's name on that server")


def _groups(names: str) -> tuple[str, ...]:
    chosen = tuple(names.split(","))
    if unknown := [name for name in chosen if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no group; there are {', '.join(GROUPS)}")
    return chosen
