"""An edit on the page, from the photograph to what comes back."""

import base64
import io
import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from serve.engine.engine import EngineStats
from tests import pictures
from tests.http.api import draw, pixels
from tests.http.browser.playground import PHOTO, SIZE, Playground, sent_pixels
from tests.http.conftest import KONTEXT, TINY
from tests.waiting import eventually

MAX_BYTES = 4 * 2**20
ORIENTATION_TAG = 0x0112


def test_what_is_not_painted_comes_back_as_it_was(playground: Playground, http: httpx.Client) -> None:
    playground.choose(PHOTO)
    playground.paint((0.3, 0.3), (0.6, 0.5))
    playground.ask()
    mask = playground.mask()
    playground.page.get_by_role("radio", name="Results").check()
    result = pixels(playground.download())
    (canvas,) = draw(http, images=[base64.b64encode(PHOTO).decode()], size="auto", strength=0)
    kept = mask == 0
    assert mask.shape == result.shape[:2]
    assert 0.1 < kept.mean() < 0.95
    np.testing.assert_array_equal(result[kept], pixels(canvas)[kept])
    assert (result[mask == 255] != pixels(canvas)[mask == 255]).any()


def test_previews_and_progress_come_before_the_result(playground: Playground) -> None:
    playground.choose(PHOTO)
    playground.ask(num_inference_steps=40, size="512x512")
    playground.press("Edit")
    expect(playground.page.locator("#status")).to_contain_text("Step ")
    expect(playground.results.get_by_text("Preview")).to_be_visible()
    expect(playground.page.locator(".result img.after")).to_be_visible()
    assert 0 < playground.page.locator("#progress").evaluate("bar => bar.value") < 1
    expect(playground.page.locator("#status")).to_contain_text("Done in")
    expect(playground.page.locator("#announcement")).to_contain_text("Done in")
    expect(playground.page.locator("#progress")).to_be_hidden()
    assert pixels(playground.download()).shape == (512, 512, 3)


def test_cancel_frees_the_row(playground: Playground, engine_stats: Callable[[str], EngineStats]) -> None:
    def idle() -> bool:
        stats = engine_stats(TINY)
        return stats.waiting_rows + stats.running_rows == 0

    eventually(idle)
    before = engine_stats(TINY)
    playground.choose(PHOTO)
    playground.ask(num_inference_steps=100, size="1024x1024", partial_images=0)
    playground.press("Edit")
    expect(playground.page.locator("#status")).to_contain_text("Step ")
    playground.press("Cancel")
    eventually(idle)
    assert engine_stats(TINY).cancelled_rows - before.cancelled_rows == 1
    assert engine_stats(TINY).row_steps - before.row_steps < 100
    expect(playground.page.locator("#status")).to_have_text("Cancelled")
    expect(playground.page.locator("#easel")).to_be_visible()


def test_a_seed_that_is_used_again_draws_the_same(playground: Playground) -> None:
    playground.choose(PHOTO)
    playground.ask(num_inference_steps=1)
    playground.edit()
    first, seed = playground.download(), playground.seed()
    playground.press(f"Seed {seed}")
    expect(playground.page.locator("#seed")).to_have_value(seed)
    playground.edit()
    assert (playground.seed(), playground.download()) == (seed, first)


def test_seeds_beyond_what_javascript_counts_exactly_are_kept(playground: Playground) -> None:
    playground.choose(PHOTO)
    playground.ask(num_inference_steps=1, seed=2**64 - 2, n=2)
    playground.edit()
    assert [playground.seed(at) for at in range(2)] == [str(2**64 - 2), str(2**64 - 1)]


def test_results_stand_side_by_side_between_before_and_after(playground: Playground) -> None:
    playground.choose(PHOTO)
    playground.ask(n=2, num_inference_steps=2, seed=1)
    playground.edit()
    left, right = (playground.results.nth(at).bounding_box() for at in range(2))
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    slider = playground.results.first.get_by_role("slider")
    slider.press("Home")
    assert playground.results.first.locator(".compare").evaluate("box => box.style.getPropertyValue('--split')") == "0%"
    assert playground.download(0) != playground.download(1)


def test_a_result_can_be_the_next_photograph(playground: Playground) -> None:
    playground.choose(PHOTO)
    playground.paint((0.5, 0.5))
    playground.ask(output_format="jpeg", num_inference_steps=1)
    playground.edit()
    result = playground.download()
    playground.press("Go on from here")
    expect(playground.page.locator("#easel")).to_be_visible()
    playground.edit()
    sent = dict(playground.sent())
    assert "mask" not in sent
    _, file = sent["image"]
    assert np.abs(sent_pixels(file).astype(int) - pixels(result)).max() <= 2


def test_a_png_that_fits_is_sent_as_it_is(playground: Playground) -> None:
    playground.choose(PHOTO, names=["the cup.png"])
    playground.ask(strength=0)
    playground.edit()
    assert dict(playground.sent())["image"] == ("the-cup.png", PHOTO)


def test_a_large_jpeg_is_reduced_to_what_the_api_takes_and_it_says_so(playground: Playground) -> None:
    photo = Image.fromarray(pictures.photo((2400, 1800)))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=95)
    playground.choose(file.getvalue(), names=["large.jpg"], kind="image/jpeg")
    expect(playground.page.locator("#photo-note")).to_contain_text("large.jpg has 2400 × 1800 pixels; it is sent as")
    playground.paint((0.5, 0.5))
    playground.ask(size="256x256", num_inference_steps=1)
    playground.edit()
    sent = dict(playground.sent())
    name, image = sent["image"]
    assert name == "large.png"
    assert len(image) <= MAX_BYTES
    assert sent_pixels(image).shape == sent_pixels(sent["mask"][1]).shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_turned_photograph_is_sent_upright(playground: Playground, kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    file = io.BytesIO()
    Image.fromarray(pictures.photo(SIZE)).save(file, kind, exif=exif)
    playground.choose(file.getvalue(), names=["turned"], kind=f"image/{kind.lower()}")
    playground.ask(strength=0)
    playground.edit()
    assert sent_pixels(dict(playground.sent())["image"][1]).shape == (*SIZE, 3)


def test_further_photographs_are_references_where_the_model_takes_them(playground: Playground) -> None:
    playground.ask(model=KONTEXT, num_inference_steps=1)
    others = [pictures.rgb(SIZE, seed) for seed in (1, 2)]
    playground.choose(PHOTO, *others)
    playground.edit()
    assert [value[1] for name, value in playground.sent() if name == "image[]"] == [PHOTO, *others]
    playground.page.get_by_role("radio", name="Photograph").check()
    playground.press("Remove photo-1.png")
    playground.edit()
    assert [value[1] for name, value in playground.sent() if name == "image[]"] == [PHOTO, others[1]]


def test_photographs_that_the_model_does_not_take_are_named(playground: Playground) -> None:
    playground.choose(PHOTO, PHOTO, names=["one.png", "two.png"])
    expect(playground.page.locator("#photo-note")).to_have_text(f"{TINY} takes one picture: two.png was left out.")
    playground.ask(strength=0)
    playground.edit()
    assert [name for name, _ in playground.sent() if name.startswith("image")] == ["image"]


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photograph_can_be_dropped_or_pasted(playground: Playground, way: str) -> None:
    data = base64.b64encode(PHOTO).decode()
    playground.page.evaluate(
        """([way, data]) => {
          const transfer = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
          transfer.items.add(new File([bytes], "cup.png", {type: "image/png"}));
          const event = way === "drop"
            ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true});
          document.body.dispatchEvent(event);
        }""",
        [way, data],
    )
    expect(playground.page.locator("#easel")).to_be_visible()
    playground.ask(strength=0)
    playground.edit()
    assert dict(playground.sent())["image"] == ("cup.png", PHOTO)


def test_an_error_within_the_stream_is_told(playground: Playground) -> None:
    def fail(route: Route) -> None:
        error = {"message": "the model is gone", "type": "server_error", "param": None, "code": "backend_unavailable"}
        body = f": hello\n\nevent: error\ndata: {json.dumps({'error': error})}\n\n"
        route.fulfill(status=200, headers={"content-type": "text/event-stream"}, body=body)

    playground.page.route("**/v1/images/edits", fail)
    playground.choose(PHOTO)
    playground.ask()
    playground.press("Edit")
    expect(playground.page.locator(".run").get_by_role("alert")).to_have_text("the model is gone")
    expect(playground.page.locator("#easel")).to_be_visible()


def test_a_whole_edit_by_keyboard_alone(page: Page, playground: Playground, http: httpx.Client) -> None:
    def tab_to(control: str) -> None:
        for _ in range(60):
            if page.evaluate("control => document.activeElement.matches(control)", control):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{control} is not reached")

    tab_to("#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([{"name": "cup.png", "mimeType": "image/png", "buffer": PHOTO}])
    expect(page.locator("#easel")).to_be_visible()
    tab_to("#mask")
    page.keyboard.press("Space")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    tab_to("#prompt")
    page.keyboard.type("make it black and white")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("Done in")
    page.keyboard.press("Shift+Tab")
    page.locator("#stage").evaluate("stage => stage.querySelector('[name=view]').focus()")
    tab_to(".result a[download]")
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    result = pixels(saved.value.path().read_bytes())
    changed = (result != pixels(PHOTO)).any(axis=-1)
    across = np.flatnonzero(changed.any(axis=0))
    assert across.min() < SIZE[0] / 2 < across.max()
    assert not changed[0].any()
    assert len(draw(http)) == 1
