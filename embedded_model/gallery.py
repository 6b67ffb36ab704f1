"""The README's picture: the example photographs and what a running server makes of them."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw, ImageFilter, ImageFont

EXAMPLES = Path(__file__).parent.parent / "examples"
CELL = (400, 266)
GAP_PX = 6
LABEL_PX = 32
CUP = (168, 22, 402, 395)
"""Left, top, right, bottom of the cup in coffee.png."""

ROWS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "coffee.png": (
        ("make it black and white", {}),
        ("tint it blue", {}),
        ("make it look like night", {}),
        ("tint it green, under a mask", {"prompt": "tint it green", "mask": CUP}),
    ),
    "rocket.png": (
        ("give it a warm sunset glow", {}),
        ("invert the colours", {}),
        ("give the photo a vintage look", {}),
        ("make it brighter, strength 0.5", {"prompt": "make it brighter", "strength": 0.5}),
    ),
}
"""By photograph: the label, and the fields of the request where they are not the label as prompt."""


def draw_gallery(url: str, file: Path) -> None:
    """Ask the server at `url` for every edit and save them, labelled, as one picture."""
    with httpx.Client(base_url=url, timeout=300) as client:
        rows = [_row(client, name, edits) for name, edits in ROWS.items()]
    width, height = CELL[0] + GAP_PX, CELL[1] + LABEL_PX
    sheet = Image.new("RGB", (width * max(map(len, rows)) - GAP_PX, height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (picture, label) in enumerate(row):
            sheet.paste(picture.resize(CELL, Image.Resampling.LANCZOS), (x * width, y * height))
            draw.text((x * width + 4, y * height + CELL[1] + 4), label, "black", ImageFont.load_default(20))
    sheet.save(file, quality=88)


def _row(
    client: httpx.Client, name: str, edits: tuple[tuple[str, dict[str, Any]], ...]
) -> list[tuple[Image.Image, str]]:
    photograph = Image.open(EXAMPLES / name).convert("RGB")
    return [
        (photograph, "the photograph"),
        *((_edit(client, photograph, label, asked), label) for label, asked in edits),
    ]


def _edit(client: httpx.Client, photograph: Image.Image, label: str, asked: dict[str, Any]) -> Image.Image:
    body = {"images": [_base64(photograph)], "prompt": label, "size": "auto", "seed": 7, "response_format": "b64_json"}
    body |= asked
    if "mask" in asked:
        body["mask"] = _base64(_soft_ellipse(photograph.size, asked["mask"]))
    answer = client.post("/v1/images/edits", json=body).raise_for_status().json()
    return Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))


def _soft_ellipse(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(6))


def _base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
