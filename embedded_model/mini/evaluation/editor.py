"""What edits pictures, as the evaluation sees it: a request goes out, a picture comes back."""

import io
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from serve.client import Client, EditCall

Settings = dict[str, str | int | float]
"""Further fields of the API's request: `strength`, `guidance_scale`, `num_inference_steps`."""


@dataclass(frozen=True)
class Request:
    """source and reference (3, H, W) in [0, 1], in steps of 1/255; mask (1, H, W): 1 is edited and 0 kept."""

    source: Tensor
    prompt: str
    seed: int
    reference: Tensor | None = None
    mask: Tensor | None = None
    settings: Settings = field(default_factory=Settings)


class Editor(Protocol):
    def edit(self, request: Request) -> Tensor:
        """The edited picture, of the source's size, in steps of 1/255."""
        ...


class HttpEditor:
    """Sends each request to POST /v1/images/edits. Raises `serve.client.ClientError`."""

    def __init__(self, url: str, model: str) -> None:
        self._client = Client(url)
        self._model = model

    def edit(self, request: Request) -> Tensor:
        images = [request.source] if request.reference is None else [request.source, request.reference]
        height, width = request.source.shape[1:]
        options: Settings = {"model": self._model, "size": f"{width}x{height}", "seed": request.seed}
        call = EditCall(
            request.prompt,
            [as_png(image) for image in images],
            None if request.mask is None else as_png(request.mask.expand(3, -1, -1)),
            options | request.settings,
        )
        (picture,) = self._client.edit(call).pictures
        return as_tensor(Image.open(io.BytesIO(picture.data)))


def as_image(picture: Tensor) -> Image.Image:
    """Of (3, H, W) in [0, 1]."""
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def as_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def as_png(picture: Tensor) -> bytes:
    file = io.BytesIO()
    as_image(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()
