"""The edits that are sent: a picture with a photograph's bytes, and a mask under which most of it comes back."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from benchmarks.pictures import MaskKey, PictureKey, Pictures

MODEL = "simulated"
STEPS = 2
MAY_BE_RETRIED = {"x-stainless-retry-count": "0"}
"""What OpenAI's clients send with every first try."""

Way = Literal["b64_json", "url", "b64_json, may be retried"]
WAYS: tuple[Way, ...] = ("b64_json", "url", "b64_json, may be retried")


@dataclass(frozen=True, slots=True)
class Sent:
    body: bytes
    headers: dict[str, str]


def edit(side: int, seed: int, way: Way = "b64_json") -> Sent:
    """side: of the picture and of the answer, in pixels."""
    image, mask = _pictures(side)
    fields: dict[str, Any] = {
        "model": MODEL,
        "images": [image],
        "mask": mask,
        "prompt": "make it black and white",
        "size": f"{side}x{side}",
        "num_inference_steps": STEPS,
        "seed": seed,
        "response_format": way.partition(",")[0],
    }
    headers = {"content-type": "application/json", **(MAY_BE_RETRIED if "retried" in way else {})}
    return Sent(json.dumps(fields).encode(), headers)


@lru_cache
def _pictures(side: int) -> tuple[str, str]:
    made = Pictures()
    image, mask = made.encoded(PictureKey(side, side, 0)), made.encoded(MaskKey(side, side, "centre"))
    return image.base64.decode(), mask.base64.decode()
