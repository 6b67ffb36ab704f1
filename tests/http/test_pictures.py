"""Every kind of picture a client may send, against a conversion written here, and every kind that is refused."""

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from serve.settings import MIB
from tests import pictures
from tests.http.api import Pixels, canvas_request, files, invalid, pixels, post, refusal
from tests.http.conftest import KONTEXT

SIZE = (256, 256)
SMALL = pictures.base64_of(pictures.rgb((16, 16)))


def _over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255.0
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def _rounded(samples: pictures.Samples) -> Pixels:
    """16 bits to 8."""
    return np.rint(samples / 257.0).astype(np.uint8)


def _as_rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)


def _fade() -> Pixels:
    row = np.clip(np.linspace(510, 0, SIZE[0]), 0, 255).astype(np.uint8)
    return np.tile(row, (SIZE[1], 1))


def _palette_colours() -> Pixels:
    return pictures.photo((16, 16), 1).reshape(-1, 3)[pictures.photo(SIZE, 0, 1)[..., 0]]


def _palette_alpha() -> Pixels:
    index = pictures.photo(SIZE, 0, 1)[..., 0].astype(np.int64)
    return np.where(index < 128, 2 * index, 255).astype(np.uint8)


GOOD: dict[str, tuple[bytes, Pixels]] = {
    "rgb": (pictures.rgb(SIZE), pictures.photo(SIZE)),
    "rgba": (pictures.rgba(SIZE), _over_white(pictures.photo(SIZE), _fade())),
    "grey": (pictures.grey(SIZE), _as_rgb(pictures.photo(SIZE, 0, 1))),
    "grey with alpha": (pictures.grey_alpha(SIZE), _over_white(_as_rgb(pictures.photo(SIZE, 0, 1)), _fade())),
    "one bit": (pictures.one_bit(SIZE), _as_rgb(pictures.mask_array(SIZE))),
    "rgb of 16 bits": (pictures.rgb16(SIZE), _rounded(pictures.noise(SIZE, "rgb", 16))),
    "grey of 16 bits": (pictures.grey16(SIZE), _as_rgb(_rounded(pictures.noise(SIZE, "grey", 16)))),
    "palette": (pictures.palette(SIZE), _palette_colours()),
    "transparent palette": (pictures.palette_transparent(SIZE), _over_white(_palette_colours(), _palette_alpha())),
    "interlaced": (pictures.interlaced(SIZE), pictures.photo(SIZE)),
    "animated": (pictures.animated(SIZE), pictures.photo(SIZE)),
}
BAD: dict[str, tuple[str, str]] = {
    "truncated": (pictures.base64_of(pictures.truncated()), "invalid_image"),
    "one bit flipped": (pictures.base64_of(pictures.bad_checksum()), "invalid_image"),
    "a signature alone": (pictures.base64_of(pictures.SIGNATURE), "invalid_image"),
    "no bytes": ("", "invalid_image"),
    "too many pixels": (pictures.base64_of(pictures.bomb()), "too_many_pixels"),
    "more sides than pixels": (pictures.base64_of(pictures.bomb((2**31 - 1, 2**31 - 1))), "too_many_pixels"),
    "JPEG": (pictures.base64_of(pictures.other_format("JPEG")), "unsupported_image_format"),
    "WebP": (pictures.base64_of(pictures.other_format("WEBP")), "unsupported_image_format"),
    "GIF": (pictures.base64_of(pictures.other_format("GIF")), "unsupported_image_format"),
    "BMP": (pictures.base64_of(pictures.other_format("BMP")), "unsupported_image_format"),
    "TIFF": (pictures.base64_of(pictures.other_format("TIFF")), "unsupported_image_format"),
    "text": (pictures.base64_of(b"a picture of a cat"), "unsupported_image_format"),
    "a data URL of a JPEG": (pictures.data_url(pictures.rgb(), "image/jpeg"), "unsupported_image_format"),
    "no base64": ("not base64!", "invalid_base64"),
    "base64 for URLs": (SMALL.replace("/", "_").replace("+", "-") + "_-_-", "invalid_base64"),
    "cut base64": (SMALL.rstrip("=")[:-1], "invalid_base64"),
    "a data URL without data": ("data:image/png;base64", "invalid_base64"),
    "a data URL without base64": ("data:image/png,abcd", "invalid_base64"),
    "a link": ("https://example.com/cat.png", "invalid_value"),
    "a local link": ("http://127.0.0.1:8000/healthz", "invalid_base64"),
    "a path": ("file:///etc/passwd", "invalid_base64"),
    "one byte more than 4 MiB": (pictures.base64_of(pictures.of_bytes(4 * MIB + 1)), "image_too_large"),
}
TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a stored picture is shown, by EXIF orientation."""


def _canvas(http: httpx.Client, picture: bytes, **fields: object) -> npt.NDArray[np.uint8]:
    (file,) = files(post(http, canvas_request(images=[pictures.base64_of(picture)], **fields)))
    return pixels(file)


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_png_is_converted_to_8_bit_rgb(http: httpx.Client, kind: str) -> None:
    file, expected = GOOD[kind]
    np.testing.assert_array_equal(_canvas(http, file), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(http: httpx.Client, orientation: int) -> None:
    stored = (320, 256)
    upright = Image.fromarray(pictures.photo(stored))
    if orientation in TURNS:
        upright = upright.transpose(TURNS[orientation])
    expected = ImageOps.fit(upright, SIZE, Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(_canvas(http, pictures.oriented(orientation, stored)), np.asarray(expected))


@pytest.mark.parametrize("source", [(512, 512), (512, 1024), (192, 128), (64, 64), (300, 100)], ids=str)
@pytest.mark.parametrize("size", [256, 512])
def test_the_canvas_covers_the_output_size_from_the_centre(
    http: httpx.Client, source: tuple[int, int], size: int
) -> None:
    expected = ImageOps.fit(Image.fromarray(pictures.photo(source)), (size, size), Image.Resampling.LANCZOS)
    found = _canvas(http, pictures.rgb(source), size=f"{size}x{size}")
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("source", [(640, 320), (320, 640), (333, 500), (3000, 100)], ids=str)
def test_size_auto_keeps_the_aspect_and_says_the_size(http: httpx.Client, source: tuple[int, int]) -> None:
    response = post(http, canvas_request(images=[pictures.base64_of(pictures.rgb(source))], size="auto"))
    height, width = pixels(files(response)[0]).shape[:2]
    assert response.json()["size"] == f"{width}x{height}"
    model = http.get("/v1/models/retouch-tiny").json()
    assert model["id"] == "retouch-tiny"
    bounded = min(max(source[0] / source[1], 256 / 1536), 1536 / 256)
    assert width / height == pytest.approx(bounded, rel=0.05)


@pytest.mark.parametrize("kind", BAD)
def test_every_bad_picture_is_refused_by_its_place(http: httpx.Client, kind: str) -> None:
    text, code = BAD[kind]
    assert refusal(post(http, canvas_request(images=[text]))) == invalid(code, "images[0]")


@pytest.mark.parametrize("kind", BAD)
def test_every_bad_mask_is_refused_as_the_mask(http: httpx.Client, kind: str) -> None:
    text, code = BAD[kind]
    assert refusal(post(http, canvas_request(mask=text))) == invalid(code, "mask")


def test_a_bad_reference_is_refused_by_its_place(http: httpx.Client) -> None:
    images = [SMALL, SMALL, pictures.base64_of(pictures.truncated())]
    found = refusal(post(http, canvas_request(model=KONTEXT, images=images)))
    assert found == invalid("invalid_image", "images[2]")


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
def test_a_chunk_that_would_inflate_to_much_is_passed_over(http: httpx.Client, chunk: str) -> None:
    file = pictures.text_bomb(chunk)  # pyright: ignore[reportArgumentType]
    expected = ImageOps.fit(Image.fromarray(pictures.photo()), SIZE, Image.Resampling.LANCZOS)
    assert np.abs(_canvas(http, file).astype(int) - np.asarray(expected)).mean() < 1


def test_a_picture_of_exactly_4_mib_is_accepted(http: httpx.Client) -> None:
    file = pictures.of_bytes(4 * MIB, SIZE)
    np.testing.assert_array_equal(_canvas(http, file), pictures.photo(SIZE))


def test_ten_pictures_and_a_mask_of_4_mib_fit_in_a_request(http: httpx.Client) -> None:
    text = pictures.base64_of(pictures.of_bytes(4 * MIB, SIZE))
    body = canvas_request(model=KONTEXT, images=[text] * 10, mask=text)
    np.testing.assert_array_equal(pixels(files(post(http, body))[0]), pictures.photo(SIZE))


@pytest.mark.parametrize("form", ["plain", "data URL", "object", "broken lines"])
def test_a_picture_may_come_in_every_form(http: httpx.Client, form: str) -> None:
    plain = pictures.base64_of(pictures.rgb(SIZE))
    url = pictures.data_url(pictures.rgb(SIZE))
    lines = "\r\n".join(plain[at : at + 76] for at in range(0, len(plain), 76))
    item = {"plain": plain, "data URL": url, "object": {"image_url": url}, "broken lines": lines}[form]
    (file,) = files(post(http, canvas_request(images=[item])))
    np.testing.assert_array_equal(pixels(file), pictures.photo(SIZE))


def test_a_model_of_one_source_names_the_second(http: httpx.Client) -> None:
    found = refusal(post(http, canvas_request(images=[SMALL, SMALL])))
    assert found == invalid("unsupported_parameter", "images[1]")


def test_a_model_of_many_sources_takes_ten_and_not_eleven(http: httpx.Client) -> None:
    assert len(files(post(http, canvas_request(model=KONTEXT, images=[SMALL] * 10)))) == 1
    found = refusal(post(http, canvas_request(model=KONTEXT, images=[SMALL] * 11)))
    assert found == invalid("too_many_images", "images")


@pytest.mark.parametrize("size", [(64, 47), (48, 64), (1, 1)], ids=str)
def test_a_mask_of_another_size_than_the_picture_is_refused(http: httpx.Client, size: tuple[int, int]) -> None:
    body = canvas_request(images=[pictures.base64_of(pictures.rgb())], mask=pictures.base64_of(pictures.mask(size)))
    assert refusal(post(http, body)) == invalid("mask_size_mismatch", "mask")


def test_a_mask_without_transparency_cannot_be_read_by_alpha(http: httpx.Client) -> None:
    body = canvas_request(mask=pictures.base64_of(pictures.mask(SIZE)), mask_mode="alpha")
    assert refusal(post(http, body)) == invalid("invalid_value", "mask")
