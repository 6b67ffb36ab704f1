"""The page as somebody uses it, and what it sends and shows."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests import pictures
from tests.http.api import Pixels

KEEP_WHAT_IS_SENT = """
const send = window.fetch;
window.fetch = (address, options) => {
  if (options?.body) window.sent = options.body;
  return send(address, options);
};
"""
READ_WHAT_WAS_SENT = """
async () => {
  const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const read = async (value) => (typeof value === "string" ? value : [value.name, base64(await value.bytes())]);
  return Promise.all([...window.sent].map(async ([field, value]) => [field, await read(value)]));
}
"""
"""The browser's own record of a request leaves files out."""

SIZE = (320, 256)
"""Of the photograph; both sides are what the models draw, so that `auto` keeps them."""
PHOTO = pictures.rgb(SIZE)
PATIENCE_MS = 60_000
Place = tuple[float, float]
"""Across and down the photograph, 0 to 1."""


class Playground:
    """page: opened. folder: for the files that it saves."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder

    def choose(self, *photos: bytes, names: Sequence[str] = (), kind: str = "image/png") -> None:
        named = [*names, *(f"photo {at}.png" for at in range(len(names), len(photos)))]
        files = [{"name": name, "mimeType": kind, "buffer": data} for name, data in zip(named, photos, strict=True)]
        self.page.locator("#choose").set_input_files(files)  # pyright: ignore[reportArgumentType]
        expect(self.page.locator("#easel")).to_be_visible()

    def ask(self, prompt: str = "make it black and white", **fields: object) -> None:
        """Fills the form."""
        self.page.locator("#prompt").fill(prompt)
        for name, value in fields.items():
            field = self.page.locator(f"#{name}")
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(str(value))
            else:
                field.fill(str(value))

    def paint(self, *places: Place) -> None:
        """One stroke."""
        mouse = self.page.mouse
        points = [self._point(place) for place in places]
        mouse.move(*points[0])
        mouse.down()
        for point in points:
            mouse.move(*point, steps=4)
        mouse.up()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def edit(self) -> None:
        """Runs the edit to its end."""
        self.press("Edit")
        expect(self.page.locator("#status")).to_contain_text("Done in")

    def sent(self) -> list[tuple[str, Any]]:
        """The last form: its fields with their texts, or with names and bytes of files."""
        fields = self.page.evaluate(READ_WHAT_WAS_SENT)
        return [
            (name, value if isinstance(value, str) else (value[0], base64.b64decode(value[1])))
            for name, value in fields
        ]

    @property
    def results(self) -> Locator:
        return self.page.locator(".result")

    def download(self, at: int = 0) -> bytes:
        with self.page.expect_download() as begun:
            self.results.nth(at).get_by_role("link", name="Download").click()
        return begun.value.path().read_bytes()

    def seed(self, at: int = 0) -> str:
        return self.results.nth(at).get_by_role("button", name="Seed").inner_text().removeprefix("Seed ")

    def mask(self) -> Pixels:
        """As the next edit sends it: (H, W), 255 where the edit may change the photograph."""
        self.edit()
        self.page.get_by_role("radio", name="Photograph").check()
        _, file = dict(self.sent())["mask"]
        levels = sent_pixels(file)
        assert (levels == levels[..., :1]).all()
        return levels[..., 0]

    def snippet(self, language: str) -> str:
        """Copied, and the files that it reads saved into the folder."""
        self.press("Show as code")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("radio", name=language).check()
        for link in dialog.get_by_role("link").all():
            with self.page.expect_download() as begun:
                link.click()
            begun.value.save_as(self.folder / begun.value.suggested_filename)
        dialog.get_by_role("button", name="Copy").click()
        expect(dialog.get_by_text("Copied.")).to_be_visible()
        dialog.get_by_role("button", name="Close").click()
        return self.page.evaluate("() => navigator.clipboard.readText()")

    def _point(self, place: Place) -> tuple[float, float]:
        box = self.page.locator("#mask").bounding_box()
        assert box is not None
        return box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]


def sent_pixels(file: bytes) -> Pixels:
    """(H, W, 3) of a picture that the page made; nothing of it may be transparent."""
    with Image.open(io.BytesIO(file)) as image:
        whole = np.asarray(image.convert("RGBA"))
    assert (whole[..., 3] == 255).all()
    return whole[..., :3]
