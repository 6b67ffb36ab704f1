"""Contact sheets: the sample grid that training saves as it goes, and the labelled sheet of the evaluation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import PreTrainedTokenizerBase

from embedded_model.data import held_out_photographs
from embedded_model.edits import EDITS
from embedded_model.model import TrainedModel
from embedded_model.sampling import edit_latents, encode_text, to_latents, to_pictures
from embedded_model.wordings import held_out_prompts

MARGIN_TOP_PX, MARGIN_LEFT_PX = 14, 96


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str], cell_px: int
) -> Image.Image:
    """Pictures in a grid of square cells, with labels to the left and above."""
    size = MARGIN_LEFT_PX + cell_px * len(column_labels), MARGIN_TOP_PX + cell_px * len(rows)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        draw.text((MARGIN_LEFT_PX + column * cell_px + 2, 1), label, fill="black")
    for y, (label, row) in enumerate(zip(row_labels, rows, strict=True)):
        top = MARGIN_TOP_PX + y * cell_px
        draw.text((2, top + 2), label, fill="black")
        for x, picture in enumerate(row):
            sheet.paste(picture.resize((cell_px, cell_px)), (MARGIN_LEFT_PX + x * cell_px, top))
    return sheet


def save_sample_grid(model: TrainedModel, tokenizer: PreTrainedTokenizerBase, work: Path, step: int) -> None:
    """Four held-out photographs at 192 px, every edit, into `work/grids`."""
    photographs = dict(list(held_out_photographs(work / "cache").items())[:4])
    prompts = [held_out_prompts(edit)[0] for edit in EDITS]
    denoiser = model.denoiser
    patch_size, length = denoiser.config["patch_size"], denoiser.config["text_length"]
    text, mask = encode_text(tokenizer, model.text_encoder, prompts, length)
    columns: list[list[Image.Image]] = []
    for photograph in photographs.values():
        source = to_latents([photograph.resize((192, 192))] * len(prompts), patch_size).to(denoiser.device)
        noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(0)).to(denoiser.device)
        columns.append(to_pictures(edit_latents(denoiser, source, text, mask, noise), patch_size))
    folder = work / "grids"
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(zip(*columns, strict=True))
    contact_sheet(rows, list(EDITS), list(photographs), 96).save(folder / f"step-{step:06d}.png")
