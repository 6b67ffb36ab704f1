"""What the files of answers tell of their making, read back by readers that are not ours."""

import io
import json
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import png as pypng
import pytest
from PIL import Image

from serve.codec import decode_picture
from serve.prepare import finish
from serve.settings import Settings
from serve.types import OutputFormat, Pixels
from tests import pictures
from tests.unit.test_prepare import FACTS, MODEL, flat, prepared

SERVER = f"Retouch {version('retouch')}"
FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp")
SOFTWARE, EXIF, USER_COMMENT = 0x0131, 0x8769, 0x9286
"""EXIF 2.32: tags of the program, of the block of further tags, and in it of the user's comment."""
GENERATED = "digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""https://cv.iptc.org/newscodes/digitalsourcetype: edited with generative AI."""
DRAWN = pictures.photo((512, 512), 1)


def answered(settings: Settings | None = None, drawn: Pixels | None = DRAWN, **fields: Any) -> list[bytes]:
    edit = prepared(settings=settings, size="512x512", **fields)
    return finish(edit.frame, None if drawn is None else [drawn] * len(edit.frame.seeds), edit.notes)


def told(file: bytes) -> dict[str, Any]:
    """The parameters, where each format keeps them; the program and the XMP must stand beside them."""
    image = Image.open(io.BytesIO(file))
    if image.format == "PNG":
        assert image.info["Software"] == SERVER
        return json.loads(image.info["retouch"])
    exif = image.getexif()
    assert exif[SOFTWARE] == SERVER
    comment = exif.get_ifd(EXIF)[USER_COMMENT]
    assert comment.startswith(b"ASCII\0\0\0")
    return json.loads(comment[8:])


def pixels(file: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_tells_what_would_draw_it_again(name: OutputFormat):
    (file,) = answered(output_format=name, seed=7, num_inference_steps=3, strength=0.5, guidance_scale=1.5)
    assert told(file) == {
        "model": MODEL,
        "seed": 7,
        "num_inference_steps": 3,
        "strength": 0.5,
        "size": "512x512",
        "guidance_scale": 1.5,
        "server": SERVER,
    }
    assert GENERATED in str(Image.open(io.BytesIO(file)).info["xmp"])


def test_what_the_request_leaves_out_is_told_as_it_was_decided():
    edit = prepared(size="512x512")
    (file,) = finish(edit.frame, [DRAWN], edit.notes)
    parameters = told(file)
    assert parameters["seed"] == edit.frame.seeds[0]
    assert (parameters["num_inference_steps"], parameters["strength"]) == (FACTS.default_steps, FACTS.default_strength)


def test_a_model_without_guidance_tells_none():
    edit = prepared(replace(FACTS, has_guidance=False), size="512x512")
    assert "guidance_scale" not in told(finish(edit.frame, [DRAWN], edit.notes)[0])


@pytest.mark.parametrize(("name", "compression"), [("png", 100), ("jpeg", 80), ("webp", 80), ("webp", 100)])
def test_a_note_changes_no_pixel(name: OutputFormat, compression: int):
    with_note, without = (
        answered(Settings(provenance=provenance), output_format=name, output_compression=compression, seed=1)[0]
        for provenance in ("parameters", "none")
    )
    np.testing.assert_array_equal(pixels(with_note), pixels(without))
    assert 0 < len(with_note) - len(without) < 1000


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_of_many_is_the_file_of_its_seed_alone(name: OutputFormat):
    together = answered(output_format=name, seed=5, n=3)
    alone = [answered(output_format=name, seed=seed)[0] for seed in (5, 6, 7)]
    assert together == alone
    assert len(set(together)) == 3


@pytest.mark.parametrize("name", FORMATS)
def test_a_strength_of_zero_claims_no_model_and_no_seed(name: OutputFormat):
    files = answered(Settings(provenance="prompt"), None, output_format=name, strength=0, seed=7, n=2)
    assert told(files[0]) == {"edited": False, "strength": 0.0, "size": "512x512", "server": SERVER}
    assert files[0] == files[1]
    assert b"digitalsourcetype" not in files[0]


@pytest.mark.parametrize("name", FORMATS)
def test_a_server_that_is_told_to_adds_nothing(name: OutputFormat):
    (file,) = answered(Settings(provenance="none"), output_format=name)
    image = Image.open(io.BytesIO(file))
    assert not {"Software", "retouch", "exif", "xmp"} & image.info.keys()
    assert b"Retouch" not in file


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prompt", ["make it blue", "画成蓝色 \U0001f3a8 \0 \n é"])
def test_the_prompt_is_told_only_where_the_operator_asks_for_it(name: OutputFormat, prompt: str):
    assert "prompt" not in told(answered(output_format=name, prompt=prompt)[0])
    assert told(answered(Settings(provenance="prompt"), output_format=name, prompt=prompt)[0])["prompt"] == prompt


@pytest.mark.parametrize("name", FORMATS)
def test_the_longest_prompt_is_cut_and_says_so(name: OutputFormat):
    prompt = "\U0001f3a8" * 32_000
    parameters = told(answered(Settings(provenance="prompt"), output_format=name, prompt=prompt)[0])
    assert (parameters["prompt"], parameters["prompt_characters"]) == (prompt[:4000], 32_000)


def test_the_chunks_of_a_png_are_in_order_and_whole_to_a_strict_reader():
    (file,) = answered(seed=7)
    chunks = list(pypng.Reader(bytes=file).chunks())  # checks every checksum
    assert [name for name, _ in chunks] == [b"IHDR", b"tEXt", b"tEXt", b"iTXt", b"IDAT", b"IEND"]
    assert chunks[1][1] == b"Software\0" + SERVER.encode()
    keyword, _, text = chunks[2][1].partition(b"\0")
    assert (keyword, json.loads(text)["seed"]) == (b"retouch", 7)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_seeds_of_64_bits_are_told_exactly(seed: int):
    assert told(answered(seed=seed)[0])["seed"] == seed


def test_an_answer_is_good_to_send_again():
    (file,) = answered()
    np.testing.assert_array_equal(decode_picture(file, "images[0]", 10**6), DRAWN)
    assert prepared(images=[pictures.base64_of(file)], mask=pictures.base64_of(answered(drawn=flat(512, 0))[0]))
