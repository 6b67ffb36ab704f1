"""The README's picture: photographs and a drawn scene, and what a running server makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from embedded_model.mini.evaluation.editor import Editor, Request, Settings, as_image, as_tensor
from embedded_model.mini.scenes import Ground, Object, draw, scene

EXAMPLES = Path(__file__).parents[3] / "examples"
SIDE_PX = 512
CELL_PX, LABEL_PX, TEXT_PX, GAP_PX, INSET_PX = 272, 24, 14, 6, 88
SEED = 7
CUP = (0.16, 0.03, 0.79, 0.52)
"""Left, top, right, bottom of the cup in coffee.png, in sides."""
HOLE = (0.28, 0.62, 0.5, 0.84)
"""In rocket.png."""


@dataclass(frozen=True)
class Shown:
    """An edit in the gallery: label, request, and the picture that is shown small in the answer's corner, if any."""

    label: str
    request: Request
    inset: Tensor | None = None


def draw_gallery(editor: Editor, file: Path) -> None:
    """Asks for every edit and saves them, labelled, as one picture: the sources on the left, then their edits."""
    rows = gallery()
    width, height = CELL_PX + GAP_PX, CELL_PX + LABEL_PX
    columns = 1 + max(len(edits) for _, _, edits in rows)
    sheet = Image.new("RGB", (width * columns - GAP_PX, height * len(rows)), "white")
    for y, (label, source, edits) in enumerate(rows):
        _paste(sheet, (0, y * height), label, source)
        for x, shown in enumerate(edits, 1):
            _paste(sheet, (x * width, y * height), shown.label, editor.edit(shown.request), shown.inset)
    sheet.save(file, quality=88)


def gallery() -> list[tuple[str, Tensor, Sequence[Shown]]]:
    """Rows: a label, the source, and its edits."""
    coffee, rocket = _photograph("coffee.png"), _photograph("rocket.png")
    drawn = _drawn(
        Ground("gradient", (0.86, 0.88, 0.92), (0.62, 0.72, 0.82), angle=1.0),
        Object("circle", "red", "left"),
        Object("heart", "yellow", "centre", "small"),
        Object("square", "green", "bottom right"),
    )
    shape = _drawn(Ground("plain", (0.9, 0.86, 0.78)), Object("star", "purple", "centre"))
    cup, hole = _ellipse(CUP), _ellipse(HOLE)
    damaged = torch.where(hole > 0, torch.full_like(rocket, 0.5), rocket)
    return [
        (
            "the photograph",
            coffee,
            [
                _shown("turn it into a pencil drawing", coffee),
                _shown("make it look like night", coffee),
                _shown("make it warmer and mirror it", coffee),
                _shown("tint it green", coffee, mask=cup, inset=cup.expand(3, -1, -1)),
            ],
        ),
        (
            "the photograph",
            rocket,
            [
                _shown("make it an oil painting", rocket),
                _shown("let it snow", rocket),
                _shown("use the colours of the second picture", rocket, reference=coffee, inset=coffee),
                _shown("fill the hole", damaged, mask=hole, inset=damaged),
            ],
        ),
        (
            "the scene",
            drawn,
            [
                _shown("add a blue star at the top right", drawn),
                _shown("remove the red circle", drawn),
                _shown("move the heart to the bottom left", drawn),
                _shown("put the shape of picture 2 at the top", drawn, reference=shape, inset=shape),
            ],
        ),
    ]


def _shown(
    prompt: str,
    source: Tensor,
    *,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
    inset: Tensor | None = None,
) -> Shown:
    return Shown(prompt, Request(source, prompt, SEED, reference, mask, Settings()), inset)


def _photograph(name: str) -> Tensor:
    """The middle of a photograph that training never saw."""
    return as_tensor(ImageOps.fit(Image.open(EXAMPLES / name).convert("RGB"), (SIDE_PX, SIDE_PX)))


def _drawn(ground: Ground, *objects: Object) -> Tensor:
    size = (SIDE_PX, SIDE_PX)
    picture = draw(scene([ground], [objects], torch.zeros(1, 3, *size)), size)[0]
    return (picture * 255).round() / 255


def _ellipse(box: tuple[float, float, float, float]) -> Tensor:
    mask = Image.new("RGB", (SIDE_PX, SIDE_PX))
    left, top, right, bottom = (share * SIDE_PX for share in box)
    ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill="white")
    return as_tensor(mask)[:1]


def _paste(
    sheet: Image.Image, corner: tuple[int, int], label: str, picture: Tensor, inset: Tensor | None = None
) -> None:
    left, top = corner
    sheet.paste(as_image(picture).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS), corner)
    if inset is not None:
        small = as_image(inset).resize((INSET_PX, INSET_PX), Image.Resampling.LANCZOS)
        framed = ImageOps.expand(small, 2, "white")
        sheet.paste(framed, (left + CELL_PX - framed.width, top + CELL_PX - framed.height))
    font = ImageFont.load_default(TEXT_PX)
    ImageDraw.Draw(sheet).text((left + 2, top + CELL_PX + 3), label, "black", font)
