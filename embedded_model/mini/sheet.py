"""The picture that training leaves behind every so often: for each group some sources, what was wanted, what came."""

import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from embedded_model.mini.pairs import GROUPS
from embedded_model.mini.photographs import Photographs

ROWS, SIDE = 4, 128
_LABEL = 12
_SEED = 7


def examples(photographs: Photographs, group: str, device: torch.device) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Sources and targets (ROWS, 3, SIDE, SIDE) in [0, 1], and what is asked in held-out words."""
    generator = torch.Generator(device).manual_seed(_SEED)
    pairs = GROUPS[group].make(
        photographs.crops(ROWS, (SIDE, SIDE), _SEED), generator, random.Random(_SEED), held_out=True
    )
    return pairs.source, pairs.target, pairs.instructions


def strip(source: Tensor, target: Tensor, output: Tensor, asked: tuple[str, ...]) -> Image.Image:
    """Source, target and output of each row beside each other, above them what was asked."""
    triples = torch.stack([source.cpu(), target.cpu(), output.cpu()], 1).clamp(0, 1)  # (rows, 3, 3, H, W)
    pixels = triples.permute(3, 0, 1, 4, 2).flatten(1, 3)
    picture = Image.new("RGB", (pixels.shape[1], pixels.shape[0] + _LABEL), "white")
    picture.paste(Image.fromarray((pixels * 255).round().byte().numpy()), (0, _LABEL))
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(asked):
        draw.text((row * 3 * source.shape[3], 0), text[:62], fill="black")
    return picture


def stacked(strips: list[Image.Image], file: Path) -> None:
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for one in strips:
        sheet.paste(one, (0, top))
        top += one.height
    sheet.save(file)
