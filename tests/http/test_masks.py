"""A mask is a promise: what is black comes back bit for bit, what is white is drawn anew, what is grey is between."""

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from tests import pictures
from tests.http.api import Pixels, canvas_request, draw, invalid, pixels, post, refusal
from tests.http.conftest import KONTEXT, TINY

SOURCE_SIZES = ((256, 256), (192, 128), (64, 160))
"""Those that are cut at whole pixels, so that Pillow's `fit` is an oracle to the bit."""


def _hard(size: tuple[int, int]) -> Pixels:
    return pictures.mask_array(size)


def _soft(size: tuple[int, int]) -> Pixels:
    """Black on the left third, white on the right, every grey between."""
    row = np.clip(np.linspace(-255, 510, size[0]), 0, 255).astype(np.uint8)
    return np.tile(row, (size[1], 1))


def _odd(size: tuple[int, int]) -> Pixels:
    """Discs, a ring and lone pixels, none of them aligned with a model's cells."""
    width, height = size
    image = Image.new("L", size, 0)
    draw = ImageDraw.Draw(image)
    draw.ellipse((3, 5, width // 2 + 1, height // 2 + 3), fill=255)
    draw.ellipse((width // 2 - 9, height // 2 - 7, width - 3, height - 6), outline=255, width=5)
    draw.polygon([(1, height - 2), (width // 3, height - 5), (7, height // 2)], fill=255)
    mask = np.array(image)
    mask[1, width - 3] = mask[height // 3, width - 2] = 255
    return mask


def _empty(size: tuple[int, int]) -> Pixels:
    return np.zeros((size[1], size[0]), np.uint8)


def _full(size: tuple[int, int]) -> Pixels:
    return np.full((size[1], size[0]), 255, np.uint8)


KINDS = {"hard": _hard, "soft": _soft, "odd": _odd, "empty": _empty, "full": _full}


def _to_canvas(picture: Pixels, side: int, resampling: Image.Resampling) -> Pixels:
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (side, side), resampling))


def _check(edited: Pixels, source: Pixels, mask: Pixels, *, changes: float) -> None:
    """changes: share of the white pixels that must differ from the canvas."""
    side = edited.shape[0]
    canvas = _to_canvas(source, side, Image.Resampling.LANCZOS)
    mask_there = _to_canvas(mask, side, Image.Resampling.BILINEAR)
    black, white = mask_there == 0, mask_there == 255
    assert black.any() or mask.min() > 0
    np.testing.assert_array_equal(edited[black], canvas[black])
    if white.any():
        assert (edited != canvas).any(axis=-1)[white].mean() >= changes


@pytest.mark.parametrize("output_format", ["png", "webp"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SOURCE_SIZES, ids=str)
def test_black_stays_bit_for_bit_and_white_changes(
    http: httpx.Client, size: tuple[int, int], kind: str, output_format: str
) -> None:
    source, mask = pictures.photo(size), KINDS[kind](size)
    (file,) = draw(
        http,
        model=KONTEXT,
        images=[pictures.base64_of(pictures.write_png(source))],
        mask=pictures.base64_of(pictures.write_png(mask, "grey")),
        output_format=output_format,
    )
    _check(pixels(file), source, mask, changes=0.9)


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_the_promise_holds_at_every_size(http: httpx.Client, side: int) -> None:
    size = (192, 128)
    source, mask = pictures.photo(size), _odd(size)
    (file,) = draw(
        http,
        model=TINY,
        size=f"{side}x{side}",
        images=[pictures.base64_of(pictures.write_png(source))],
        mask=pictures.base64_of(pictures.write_png(mask, "grey")),
    )
    _check(pixels(file), source, mask, changes=0.1)


def test_the_promise_holds_for_every_picture_of_n(http: httpx.Client) -> None:
    size = (256, 256)
    source, mask = pictures.photo(size), _odd(size)
    mask_text = pictures.base64_of(pictures.write_png(mask, "grey"))
    drawn = draw(http, model=KONTEXT, n=3, mask=mask_text)
    for file in drawn:
        _check(pixels(file), source, mask, changes=0.9)
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("size", [(111, 77), (77, 111), (401, 333)], ids=str)
def test_black_stays_where_the_cut_is_between_pixels(http: httpx.Client, size: tuple[int, int]) -> None:
    images = [pictures.base64_of(pictures.rgb(size))]
    mask = _odd(size)
    text = pictures.base64_of(pictures.write_png(mask, "grey"))
    edited, canvas = (
        pixels(draw(http, model=KONTEXT, images=images, mask=text, strength=strength)[0]) for strength in (1, 0)
    )
    widened = np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(5)))
    black = _to_canvas(widened, 256, Image.Resampling.BILINEAR) == 0
    assert black.any()
    np.testing.assert_array_equal(edited[black], canvas[black])
    assert (edited != canvas).any()


@pytest.mark.parametrize("mode", ["auto", "alpha"])
def test_a_transparent_mask_edits_where_it_is_transparent(http: httpx.Client, mode: str) -> None:
    size = (192, 128)
    source = pictures.photo(size)
    (file,) = draw(
        http,
        model=KONTEXT,
        images=[pictures.base64_of(pictures.write_png(source))],
        mask=pictures.base64_of(pictures.alpha_mask(size)),
        mask_mode=mode,
    )
    _check(pixels(file), source, pictures.mask_array(size), changes=0.9)


def test_an_opaque_mask_edits_where_it_is_white(http: httpx.Client) -> None:
    size = (256, 256)
    mask = np.dstack([pictures.mask_array(size)] * 3 + [_full(size)])
    text = pictures.base64_of(pictures.write_png(mask, "rgba"))
    expected = draw(http, model=KONTEXT, mask=pictures.base64_of(pictures.mask(size)))
    assert draw(http, model=KONTEXT, mask=text) == expected
    assert draw(http, model=KONTEXT, mask=text, mask_mode="luma") == expected


def test_a_turned_mask_lies_as_its_picture_does(http: httpx.Client) -> None:
    stored = (128, 192)
    upright = np.rot90(pictures.photo(stored), -1)
    mask = _odd((stored[1], stored[0]))
    (file,) = draw(
        http,
        model=KONTEXT,
        images=[pictures.base64_of(pictures.oriented(6, stored))],
        mask=pictures.base64_of(pictures.write_png(mask, "grey")),
    )
    _check(pixels(file), upright, mask, changes=0.9)


def test_a_mask_is_compared_with_the_upright_picture(http: httpx.Client) -> None:
    body = canvas_request(
        images=[pictures.base64_of(pictures.oriented(6, (128, 192)))],
        mask=pictures.base64_of(pictures.mask((128, 192))),
    )
    assert refusal(post(http, body)) == invalid("mask_size_mismatch", "mask")


def test_grey_mixes_the_canvas_and_what_is_drawn_without_a_mask(http: httpx.Client) -> None:
    size = (256, 256)
    mask = _soft(size)
    unmasked, masked = (
        pixels(draw(http, model=TINY, mask=text)[0])
        for text in (None, pictures.base64_of(pictures.write_png(mask, "grey")))
    )
    share = mask[..., None] / 255.0
    expected = np.rint(pictures.photo(size) * (1 - share) + unmasked * share)
    np.testing.assert_array_equal(masked, expected.astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_changes_nothing_at_strength_0(http: httpx.Client, kind: str) -> None:
    size = (256, 256)
    mask = pictures.base64_of(pictures.write_png(KINDS[kind](size), "grey"))
    (file,) = draw(http, strength=0, mask=mask)
    np.testing.assert_array_equal(pixels(file), pictures.photo(size))
