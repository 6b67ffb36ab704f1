"""Contact sheets: what was asked, what was shown and wanted, and what came."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from embedded_model.mini.evaluation.cases import Case
from embedded_model.mini.evaluation.editor import as_image
from embedded_model.mini.evaluation.evaluate import Answer

SHOWN = 12
CASES_IN_A_LINE = 2
CELL_PX = 176
TEXT_PX = 12
LINE_PX = 15
SEAM_PX, GAP_PX = 3, 14


def contact_sheet(answers: Sequence[Answer]) -> Image.Image:
    """The first SHOWN answers of a group under instruction and edit; in red, what a wrong one is nearest to."""
    shown = answers[:SHOWN]
    captions = [name for name, _ in _pictures(shown[0])]
    width, height = (CELL_PX + SEAM_PX) * len(captions) + GAP_PX, CELL_PX + 2 * LINE_PX + GAP_PX
    lines = -(-len(shown) // CASES_IN_A_LINE)
    columns = min(len(shown), CASES_IN_A_LINE)
    sheet = Image.new("RGB", (width * columns - GAP_PX, LINE_PX + height * lines), "white")
    for column in range(columns):
        for index, caption in enumerate(captions):
            _write(sheet, (column * width + index * (CELL_PX + SEAM_PX), 0), caption, "grey", CELL_PX)
    for number, answer in enumerate(shown):
        corner = (number % CASES_IN_A_LINE * width, LINE_PX + number // CASES_IN_A_LINE * height)
        _draw(sheet, corner, answer, width - GAP_PX)
    return sheet


def _draw(sheet: Image.Image, corner: tuple[int, int], answer: Answer, width: int) -> None:
    left, top = corner
    outcome = answer.outcome
    _write(sheet, (left, top), outcome.prompt, "black", width)
    told = outcome.edit if outcome.right else f"{outcome.edit}; nearest: {outcome.nearest}"
    _write(sheet, (left, top + LINE_PX), told, "grey" if outcome.right else "#c00000", width)
    for index, (_, picture) in enumerate(_pictures(answer)):
        small = as_image(picture).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
        sheet.paste(small, (left + index * (CELL_PX + SEAM_PX), top + 2 * LINE_PX))


def _pictures(answer: Answer) -> list[tuple[str, Tensor]]:
    case: Case = answer.case
    asked = case.request
    pictures = [("source", asked.source)]
    if asked.reference is not None:
        pictures.append(("second picture", asked.reference))
    if asked.mask is not None:
        pictures.append(("mask", asked.mask.expand(3, -1, -1)))
    return [*pictures, ("wanted", case.target), ("answer", answer.output)]


def _write(sheet: Image.Image, corner: tuple[int, int], text: str, colour: str, width_px: int) -> None:
    """In one line; what does not fit is left out."""
    font, draw = ImageFont.load_default(TEXT_PX), ImageDraw.Draw(sheet)
    if draw.textlength(text, font) > width_px:
        while text and draw.textlength(f"{text}...", font) > width_px:
            text = text[:-1]
        text = f"{text}..."
    draw.text(corner, text, colour, font)
