"""What each tool makes of the mask, as it is sent."""

from typing import Any

import numpy as np
from playwright.sync_api import Page, expect

from tests.http.api import Pixels
from tests.http.browser.playground import PHOTO, SIZE, Playground

QUICK: dict[str, Any] = {"strength": 0}
"""Draws nothing: what is sent is all that matters."""


def _begin(playground: Playground) -> None:
    playground.choose(PHOTO)
    playground.ask(**QUICK)


def _share(mask: Pixels) -> float:
    return float((mask > 127).mean())


def _at(mask: Pixels, across: float, down: float) -> int:
    return int(mask[round(down * SIZE[1]), round(across * SIZE[0])])


def test_a_stroke_is_white_where_it_went_and_black_elsewhere(playground: Playground) -> None:
    _begin(playground)
    playground.paint((0.25, 0.5), (0.75, 0.5))
    mask = playground.mask()
    assert mask.shape == SIZE[::-1]
    assert [_at(mask, across, 0.5) for across in (0.05, 0.25, 0.5, 0.75, 0.95)] == [0, 255, 255, 255, 0]
    assert [_at(mask, 0.5, down) for down in (0.05, 0.95)] == [0, 0]


def test_with_nothing_painted_no_mask_is_sent(playground: Playground) -> None:
    _begin(playground)
    playground.paint((0.5, 0.5))
    playground.press("Clear")
    playground.edit()
    assert {"mask", "mask_mode"}.isdisjoint(dict(playground.sent()))


def test_invert_and_fill(playground: Playground) -> None:
    _begin(playground)
    playground.paint((0.2, 0.2), (0.6, 0.7))
    painted = playground.mask()
    playground.press("Invert")
    assert np.abs(painted.astype(int) + playground.mask() - 255).max() <= 1
    playground.press("Fill")
    assert (playground.mask() == 255).all()


def test_the_eraser_takes_away_what_it_passes(playground: Playground) -> None:
    _begin(playground)
    playground.press("Fill")
    playground.page.get_by_role("radio", name="Erase").check()
    playground.paint((0.3, 0.5), (0.7, 0.5))
    mask = playground.mask()
    assert [_at(mask, 0.5, 0.5), _at(mask, 0.5, 0.1)] == [0, 255]


def test_the_size_of_the_brush_is_the_width_of_the_stroke(playground: Playground) -> None:
    _begin(playground)
    shares: list[float] = []
    for size in ("10", "40"):
        playground.page.locator("#brush-size").fill(size)
        playground.paint((0.5, 0.5))
        shares.append(_share(playground.mask()))
        playground.press("Clear")
    assert 13 < shares[1] / shares[0] < 19


def test_undo_takes_back_one_at_a_time_and_redo_brings_it_again(playground: Playground) -> None:
    _begin(playground)
    keyboard = playground.page.keyboard
    playground.paint((0.2, 0.2), (0.4, 0.2))
    first = playground.mask()
    playground.paint((0.6, 0.8), (0.8, 0.8))
    second = playground.mask()
    playground.press("Invert")
    playground.press("Undo")
    np.testing.assert_array_equal(playground.mask(), second)
    playground.page.locator("#mask").focus()
    keyboard.press("Control+z")
    np.testing.assert_array_equal(playground.mask(), first)
    playground.page.locator("#mask").focus()
    keyboard.press("Control+Shift+z")
    np.testing.assert_array_equal(playground.mask(), second)
    playground.press("Undo")
    playground.press("Undo")
    expect(playground.page.locator("#undo")).to_be_disabled()


def test_a_stroke_that_is_taken_back_while_it_is_painted_stays_away(playground: Playground, page: Page) -> None:
    _begin(playground)
    playground.paint((0.2, 0.2))
    before = playground.mask()
    box = page.locator("#mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.keyboard.press("Control+z")
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9, steps=3)
    page.mouse.up()
    np.testing.assert_array_equal(playground.mask(), before)


def test_undo_in_the_prompt_is_the_prompts_own(playground: Playground, page: Page) -> None:
    _begin(playground)
    playground.paint((0.5, 0.5))
    page.locator("#prompt").press("End")
    page.keyboard.type("!")
    page.keyboard.press("Control+z")
    expect(page.locator("#prompt")).not_to_have_value("make it black and white!")
    playground.ask(**QUICK)
    assert _share(playground.mask()) > 0


def test_another_photograph_begins_with_nothing_painted(playground: Playground) -> None:
    _begin(playground)
    playground.press("Fill")
    playground.page.locator("#replace").set_input_files({"name": "new.png", "mimeType": "image/png", "buffer": PHOTO})
    expect(playground.page.locator("#undo")).to_be_disabled()
    playground.edit()
    assert "mask" not in dict(playground.sent())
