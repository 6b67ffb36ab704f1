"""What a mask's pixels mean, in each mask mode."""

import numpy as np
import pytest

from serve.codec import MaskMode, decode_mask
from serve.errors import InvalidRequest, MaskSizeMismatch
from tests import pictures

LIMIT = 40_000_000
SIZE = (64, 48)
MASK = pictures.mask_array()


def decode(data: bytes, mode: MaskMode = "auto"):
    return decode_mask(data, mode, SIZE, LIMIT)


@pytest.mark.parametrize("mode", ["luma", "auto"])
def test_white_is_edited_and_black_preserved(mode: MaskMode):
    np.testing.assert_array_equal(decode(pictures.mask(), mode), MASK)
    np.testing.assert_array_equal(decode(pictures.one_bit(), mode), MASK)


@pytest.mark.parametrize("mode", ["alpha", "auto"])
def test_transparent_is_edited_where_the_mask_has_transparency(mode: MaskMode):
    np.testing.assert_array_equal(decode(pictures.alpha_mask(), mode), MASK)


def test_half_transparent_is_half_edited():
    alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    data = pictures.write_png(np.dstack([pictures.photo(), alpha]), "rgba")
    np.testing.assert_array_equal(decode(data, "alpha"), 255 - alpha)


def test_one_transparent_pixel_makes_an_auto_mask_an_alpha_mask():
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[3, 4] = 254
    mask = decode(pictures.write_png(np.dstack([pictures.photo(), alpha]), "rgba"))
    assert mask[3, 4] == 1
    assert mask.sum() == 1


def test_an_opaque_alpha_channel_leaves_an_auto_mask_to_its_luminance():
    data = pictures.write_png(np.dstack([MASK, np.full_like(MASK, 255)]), "grey+alpha")
    np.testing.assert_array_equal(decode(data, "auto"), MASK)
    np.testing.assert_array_equal(decode(data, "alpha"), np.zeros_like(MASK))


def test_colours_count_by_their_luminance():
    colours = pictures.noise(SIZE, "rgb", 8)
    luma = colours.astype(float) @ [0.299, 0.587, 0.114]
    mask = decode(pictures.write_png(colours), "luma")
    assert abs(mask - luma).max() <= 0.51  # rounded, with weights in 16 bits
    greys = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 48, axis=0).repeat(3, axis=2)
    np.testing.assert_array_equal(decode(pictures.write_png(greys), "luma"), greys[..., 0])


def test_white_strokes_on_a_transparent_layer_are_what_a_luma_mask_edits():
    data = pictures.write_png(np.dstack([np.full((48, 64, 3), 255, np.uint8), MASK]), "rgba")
    np.testing.assert_array_equal(decode(data, "luma"), MASK)


def test_a_transparent_palette_entry_is_transparency():
    chunks = [pictures.palette_chunk(np.full((2, 3), 90, np.uint8)), (b"tRNS", b"\xff\0")]
    data = pictures.write_png(MASK // 255, "palette", before=chunks)
    np.testing.assert_array_equal(decode(data, "auto"), MASK)


def test_a_16_bit_mask_is_rounded():
    values = np.full((48, 64), 0x80FF, np.uint16)
    assert (decode(pictures.write_png(values, "grey", 16), "luma") == round(0x80FF / 257)).all()


def test_alpha_mode_refuses_a_mask_without_transparency():
    with pytest.raises(InvalidRequest, match="no transparency") as raised:
        decode(pictures.mask(), "alpha")
    assert (raised.value.code, raised.value.param) == ("invalid_value", "mask")


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(MaskSizeMismatch, match=r"mask is 48x64 and images\[0\] is 64x48") as raised:
        decode(pictures.mask((48, 64)))
    assert (raised.value.code, raised.value.param) == ("mask_size_mismatch", "mask")


def test_a_masks_own_orientation_is_honoured():
    sideways = np.ascontiguousarray(np.rot90(MASK))
    data = pictures.write_png(sideways, "grey", before=[pictures.orientation_chunk(6)])
    np.testing.assert_array_equal(decode(data, "luma"), MASK)


def test_an_orientation_turns_the_size_that_is_compared():
    with pytest.raises(MaskSizeMismatch, match="mask is 48x64"):
        decode(pictures.write_png(MASK, "grey", before=[pictures.orientation_chunk(6)]))
