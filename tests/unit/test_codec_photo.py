"""JPEG and WebP as pictures, where the operator allows them; Pillow's own reading is the oracle."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from serve.codec import decode_base64, decode_mask, decode_picture
from serve.errors import EditError
from serve.types import PictureFormat

ALL: tuple[PictureFormat, ...] = ("png", "jpeg", "webp")
MOST = 1_000_000
PHOTO = Image.open(Path(__file__).parents[2] / "examples" / "coffee.png").convert("RGB").resize((96, 64))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refused(data: bytes, most: int = MOST, formats: tuple[PictureFormat, ...] = ALL) -> tuple[str, str]:
    with pytest.raises(EditError) as caught:
        decode_picture(data, "images[0]", most, formats)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}])
def test_a_jpeg_is_read_as_pillow_reads_it(mode: str, options: dict[str, Any]):
    data = saved(PHOTO.convert(mode), "jpeg", **options)
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_picture(data, "images[0]", MOST, ALL), expected)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_is_read_as_pillow_reads_it_and_its_transparency_lies_over_white(lossless: bool):
    data = saved(PHOTO, "webp", lossless=lossless)
    assert np.array_equal(decode_picture(data, "i", MOST, ALL), np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    clear = PHOTO.copy()
    clear.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
    data = saved(clear, "webp", lossless=lossless, exact=True)
    rgba = Image.open(BytesIO(data)).convert("RGBA")
    over_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    found = decode_picture(data, "i", MOST, ALL).astype(int)
    assert np.abs(found - np.asarray(over_white)).max() <= 1


def test_an_animated_webp_is_its_first_frame():
    frames = [PHOTO, PHOTO.rotate(180)]
    data = saved(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(decode_picture(data, "i", MOST, ALL), np.asarray(PHOTO))


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(PHOTO, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
    assert np.array_equal(decode_picture(data, "i", MOST, ALL), expected)


@pytest.mark.parametrize(("kind", "name"), [("jpeg", "a JPEG"), ("webp", "a WebP")])
def test_what_the_operator_does_not_allow_is_refused_by_name(kind: str, name: str):
    data = saved(PHOTO, kind)
    assert refused(data, formats=("png",)) == ("unsupported_image_format", f"images[0] is {name}; only PNG is accepted")
    gif = refused(saved(PHOTO.convert("P"), "gif"))
    assert gif == ("unsupported_image_format", "images[0] is a GIF; PNG, JPEG and WebP are accepted")
    other, said = ("png", "a PNG") if kind == "jpeg" else ("jpeg", "a JPEG")
    only = refused(saved(PHOTO, other), formats=("webp",))
    assert only == ("unsupported_image_format", f"images[0] is {said}; only WebP is accepted")
    with pytest.raises(EditError, match=f"mask is {name}; only PNG is accepted"):
        decode_mask(data, "auto", PHOTO.size, MOST)


@pytest.mark.parametrize(("kind", "name"), [("jpeg", "JPEG"), ("webp", "WebP")])
def test_a_broken_one_and_a_huge_one_are_refused(kind: str, name: str):
    data = saved(PHOTO, kind)
    for cut in (12, len(data) // 3):
        code, message = refused(data[:cut])
        assert (code, message.startswith(f"images[0] is a damaged {name}: ")) == ("invalid_image", True)
    assert refused(data, most=96 * 64 - 1)[0] == "too_many_pixels"


def test_a_jpeg_whose_header_promises_more_than_memory_holds_is_refused_by_its_header():
    data = bytearray(saved(PHOTO, "jpeg"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = b"\xff\xdc\xff\xdc"
    assert refused(bytes(data), most=40_000_000)[0] == "too_many_pixels"


def test_a_data_url_may_name_an_allowed_format():
    assert decode_base64("data:image/jpeg;base64,aGk=", "i", 10, ALL) == b"hi"
    with pytest.raises(EditError, match="data URL of image/jpeg; only PNG is accepted"):
        decode_base64("data:image/jpeg;base64,aGk=", "i", 10)
    with pytest.raises(EditError, match="data URL of image/gif; PNG, JPEG and WebP are accepted"):
        decode_base64("data:image/gif;base64,aGk=", "i", 10, ALL)
