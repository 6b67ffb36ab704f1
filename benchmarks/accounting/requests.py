"""What `benchmarks.accounting` sends: a limited number of different edits, and requests that break a rule each.

Every malformed request knows how it must be refused. All are the same for the same seed.
"""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from benchmarks.pictures import PictureKey, Pictures

SIZES = ("256x256", "256x256", "256x256", "512x512")
PROMPTS = ("make it night", "make it black and white", "turn the sky red", "as an oil painting", "add snow")
PRIORITIES = ("low", "normal", "normal", "high")
STRENGTHS = (1.0, 1.0, 0.75, 0.5)
MOST_STEPS = 6
SOURCES = 16
SOURCE_PIXELS = 256

Way = Literal["stay", "leave", "malformed"]
"""What a client does: wait for its answer, close the connection before, or send what must be refused."""
Refusal = tuple[int, str]
"""Status and the error's code."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of many. body: of JSON; requests of one `number` have the same. refusal: which a malformed one
    must get. leaves_after: of the usual time of an answer, when the client closes its connection.
    """

    index: int
    way: Way
    number: int
    body: bytes
    row_steps: int = 0
    refusal: Refusal | None = None
    leaves_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Sound:
    """A request that is in order. row_steps: steps of all its rows."""

    body: bytes
    row_steps: int


@dataclass(frozen=True, slots=True)
class Malformed:
    name: str
    body: bytes
    refusal: Refusal


def sound_requests(count: int, seed: int) -> list[Sound]:
    """So many different edits, of a few sources, sizes, steps, strengths, prompts, priorities and numbers of rows."""
    drawn, pictures = random.Random(seed), Pictures(seed)
    return [_sound(drawn, pictures, number) for number in range(count)]


def malformed_requests(seed: int) -> list[Malformed]:
    """One for each rule of the API that a client is likely to break."""
    picture = _source(Pictures(seed), 0)

    def broken(name: str, code: str, status: int = 400, **fields: object) -> Malformed:
        return Malformed(name, _json({**_fields(picture), **fields}), (status, code))

    return [
        Malformed("no JSON", b'{"images": [', (400, "invalid_json")),
        Malformed("no object", b"[]", (400, "invalid_type")),
        Malformed("empty body", b"", (400, "invalid_json")),
        Malformed("no prompt", _json({"images": [picture]}), (400, "missing_required_parameter")),
        broken("empty prompt", "invalid_value", prompt=""),
        broken("blank prompt", "invalid_value", prompt="  "),
        broken("no images", "invalid_value", images=[]),
        broken("too many images", "too_many_images", images=[picture] * 11),
        broken("bad base64", "invalid_base64", images=["%" * 40]),
        broken("unknown field", "unknown_parameter", promt="x"),
        broken("text for a number", "invalid_type", num_inference_steps="4"),
        broken("number for a text", "invalid_type", prompt=7),
        broken("too many steps", "invalid_value", num_inference_steps=101),
        broken("unknown size", "invalid_value", size="300x300"),
        broken("unknown model", "model_not_found", 404, model="none such"),
        broken("streaming by link", "invalid_value", stream=True, response_format="url"),
        broken("a JPEG", "unsupported_image_format", images=[_encoded(_plain((8, 8)), "JPEG")]),
        broken("a cut PNG", "invalid_image", images=[picture[: len(picture) // 8 * 4]]),
        broken("a huge header", "too_many_pixels", images=[_huge_header()]),
        broken("a mask of another size", "mask_size_mismatch", mask=_encoded(_plain((8, 8)), "PNG")),
        broken("a large file", "image_too_large", images=[base64.b64encode(bytes(5 * 2**20)).decode()]),
    ]


def asks(
    count: int, sound: Sequence[Sound], malformed: Sequence[Malformed], leaving: float, broken: float, seed: int
) -> list[Ask]:
    """The requests of a run, mixed. leaving, broken: shares of clients that leave, and of malformed requests."""
    drawn = random.Random(seed)
    left, bad = round(count * leaving), round(count * broken)
    ways: list[Way] = []
    ways.extend("leave" for _ in range(left))
    ways.extend("malformed" for _ in range(bad))
    ways.extend("stay" for _ in range(count - left - bad))
    drawn.shuffle(ways)
    return [_ask(index, way, drawn, sound, malformed) for index, way in enumerate(ways)]


def _ask(index: int, way: Way, drawn: random.Random, sound: Sequence[Sound], malformed: Sequence[Malformed]) -> Ask:
    if way == "malformed":
        number = drawn.randrange(len(malformed))
        return Ask(index, way, number, malformed[number].body, refusal=malformed[number].refusal)
    number = drawn.randrange(len(sound))
    return Ask(index, way, number, sound[number].body, sound[number].row_steps, leaves_after=drawn.random())


def _sound(drawn: random.Random, pictures: Pictures, number: int) -> Sound:
    steps, strength = drawn.randint(1, MOST_STEPS), drawn.choice(STRENGTHS)
    rows = 2 if number % 10 == 0 else 1
    fields = {
        **_fields(_source(pictures, drawn.randrange(SOURCES))),
        "prompt": f"{drawn.choice(PROMPTS)}, {number}",
        "size": drawn.choice(SIZES),
        "num_inference_steps": steps,
        "strength": strength,
        "seed": drawn.randrange(2**32),
        "priority": drawn.choice(PRIORITIES),
        "n": rows,
    }
    return Sound(_json(fields), rows * max(1, int(steps * strength)))


def _fields(picture: str) -> dict[str, Any]:
    return {"images": [picture], "prompt": "make it night", "size": "256x256", "response_format": "b64_json"}


def _source(pictures: Pictures, number: int) -> str:
    return pictures.encoded(PictureKey(SOURCE_PIXELS, SOURCE_PIXELS, number)).base64.decode()


def _json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields).encode()


def _plain(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, "white")


def _encoded(picture: Image.Image, form: str) -> str:
    file = io.BytesIO()
    picture.save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def _huge_header() -> str:
    """A PNG of 900 million pixels, in 60 bytes: it says so in its header, and holds next to nothing."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    chunks = (struct.pack(">I", len(body)) + name + body + _checksum(name + body) for name, body in parts)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _checksum(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))
