"""Composition with the mask, and the files of the answer."""

import io

import numpy as np
import png as pypng
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serve.codec import compose, decode_picture, encode
from tests import pictures

SIDES = st.integers(1, 40)


def reopened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_mix_of_two_values_is_the_rounded_mean():
    """All 256 x 256 pairs of value and weight, before a black and a white canvas and against a middle one."""
    edited, weight = np.meshgrid(np.arange(256), np.arange(256))
    for ground in (0, 97, 255):
        canvas = np.full((256, 256, 3), ground, np.uint8)
        mixed = compose(canvas, edited.astype(np.uint8)[..., None].repeat(3, axis=2), weight.astype(np.uint8))
        expected = (2 * ((255 - weight) * ground + weight * edited) + 255) // 510
        np.testing.assert_array_equal(mixed, expected[..., None].repeat(3, axis=2))


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_a_black_mask_keeps_the_canvas_bit_for_bit(
    width: int, height: int, drawn_width: int, drawn_height: int, seed: int
):
    rng = np.random.default_rng(seed)
    canvas = pictures.photo((width, height), seed)
    mask = rng.choice(np.array([0, 0, 1, 128, 254, 255], np.uint8), (height, width))
    result = compose(canvas, pictures.photo((drawn_width, drawn_height), seed + 1), mask)
    assert result.shape == canvas.shape
    np.testing.assert_array_equal(result[mask == 0], canvas[mask == 0])
    edited = compose(canvas, pictures.photo((drawn_width, drawn_height), seed + 1), None)
    np.testing.assert_array_equal(result[mask == 255], edited[mask == 255])


def test_without_a_mask_the_edited_picture_is_the_result():
    edited = pictures.photo(seed=1)
    assert compose(pictures.photo(), edited, None) is edited


def test_a_picture_drawn_larger_is_reduced_to_the_canvas():
    drawn = pictures.photo((128, 96), 1)
    expected = np.asarray(Image.fromarray(drawn).resize((64, 48), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(compose(pictures.photo(), drawn, None), expected)


def test_composition_changes_none_of_its_inputs():
    canvas, edited, mask = pictures.photo(), pictures.photo(seed=1), pictures.photo(seed=2, channels=1)[..., 0]
    for array in (canvas, edited, mask):
        array.setflags(write=False)
    assert compose(canvas, edited, mask).shape == canvas.shape


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.booleans(), st.integers(0, 2**32 - 1))
def test_a_png_is_read_back_bit_for_bit_by_three_readers(width: int, height: int, smooth: bool, seed: int):
    pixels = pictures.photo((width, height), seed) if smooth else pictures.noise((width, height), "rgb", 8, seed)
    data = encode(pixels.astype(np.uint8), "png", 100)
    np.testing.assert_array_equal(reopened(data), pixels)
    np.testing.assert_array_equal(decode_picture(data, "images[0]", 10**6), pixels)
    found_width, found_height, rows, info = pypng.Reader(bytes=data).read()
    assert (found_width, found_height, info["bitdepth"], info["alpha"]) == (width, height, 8, False)
    np.testing.assert_array_equal(np.vstack([list(row) for row in rows]).reshape(height, width, 3), pixels)


def test_a_png_of_a_photo_is_smaller_than_its_pixels_and_stands_beside_pillows():
    pixels = pictures.photo((512, 512))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    size = len(encode(pixels, "png", 100))
    assert size < pixels.nbytes * 0.8
    assert size < len(file.getvalue()) * 1.25


def test_a_png_of_a_view_of_an_array_is_right():
    pixels = pictures.photo((40, 30))[::-1, 3:20]
    np.testing.assert_array_equal(reopened(encode(pixels, "png", 0)), pixels)


def test_the_same_pixels_give_the_same_bytes():
    pixels = pictures.photo((200, 100))
    for output_format in ("png", "jpeg", "webp"):
        assert encode(pixels, output_format, 80) == encode(pixels.copy(), output_format, 80)


def test_a_webp_at_100_is_lossless():
    for pixels in (pictures.photo((65, 33)), pictures.noise((20, 31), "rgb", 8).astype(np.uint8)):
        data = encode(pixels, "webp", 100)
        assert Image.open(io.BytesIO(data)).format == "WEBP"
        np.testing.assert_array_equal(reopened(data), pixels)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_more_compression_quality_is_a_larger_and_truer_file(output_format: str):
    pixels = pictures.photo((128, 128))
    kind = "jpeg" if output_format == "jpeg" else "webp"
    files = [encode(pixels, kind, quality) for quality in (0, 30, 60, 90, 100)]
    errors = [abs(reopened(file).astype(int) - pixels.astype(int)).mean() for file in files]
    assert [len(file) for file in files] == sorted(len(file) for file in files)
    assert errors == sorted(errors, reverse=True)
    assert {Image.open(io.BytesIO(file)).format for file in files} == {kind.upper()}


def test_a_jpeg_of_high_quality_keeps_its_colours_at_full_resolution():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    assert abs(reopened(encode(stripes, "jpeg", 95)).astype(int) - stripes).mean() < 10
    assert abs(reopened(encode(stripes, "jpeg", 60)).astype(int) - stripes).mean() > 40
