"""Prompts and pictures to the tensors that rows are conditioned on, cached by content.

A retry, a sweep of seeds or of prompts over one picture encodes each text and each picture once.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from serve.engine.cache import ByteLRU
from serve.families.base import Family, TextEncoding
from serve.types import EditJob, Pixels, Usage


@dataclass(frozen=True, slots=True)
class Encodings:
    """What all rows of a job share. texts: of `Family.text_prompts`. images: of the canvas, then the references.

    revised_prompt: the part of the job's prompt that was read, where it was too long. The tensors may be shared with
    other jobs; nobody changes them.
    """

    texts: tuple[TextEncoding, ...]
    images: tuple[torch.Tensor, ...]
    usage: Usage
    revised_prompt: str | None


class Encoder:
    """cache_bytes: bound of the text encodings and image latents kept."""

    def __init__(self, family: Family, cache_bytes: int) -> None:
        self._family = family
        self._cache: ByteLRU[TextEncoding | torch.Tensor] = ByteLRU(cache_bytes)

    @property
    def hits(self) -> int:
        return self._cache.hits

    @property
    def misses(self) -> int:
        return self._cache.misses

    def encode(self, job: EditJob) -> Encodings:
        prompts = self._family.text_prompts(job)
        texts = tuple(self._text(prompt) for prompt in prompts)
        prompt = texts[prompts.index(job.prompt)]
        images = tuple(self._image(pixels) for pixels in (job.canvas, *job.references))
        usage = Usage(
            text_tokens=prompt.tokens,
            image_tokens=self._family.tokens(images),
            output_tokens=self._family.tokens(images[:1]) * len(job.seeds),
        )
        return Encodings(texts, images, usage, revised_prompt=prompt.cut_to)

    def _text(self, prompt: str) -> TextEncoding:
        text = self._cache.fetch(("text", prompt), lambda: self._family.encode_text(prompt), _size_bytes)
        assert isinstance(text, TextEncoding)
        return text

    def _image(self, pixels: Pixels) -> torch.Tensor:
        key = ("image", pixels.shape, _digest(pixels))
        image = self._cache.fetch(key, lambda: self._family.encode_image(pixels), _size_bytes)
        assert isinstance(image, torch.Tensor)
        return image


def _digest(pixels: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=32).digest()


def _size_bytes(value: TextEncoding | torch.Tensor) -> int:
    tensors = value.tensors.values() if isinstance(value, TextEncoding) else (value,)
    return sum(tensor.nbytes for tensor in tensors)
