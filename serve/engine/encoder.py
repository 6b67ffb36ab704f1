"""Prompts and pictures to the tensors that rows are conditioned on, many jobs at a time, cached by content.

A retry, a sweep of seeds or of prompts over one picture encodes each text and each picture once.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from serve.engine.cache import ByteLRU
from serve.engine.runner import Runner
from serve.families.base import Family, Stage, TextEncoding
from serve.types import EditJob, Pixels, Usage

Value = TypeVar("Value")


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


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job needs encoded, by content, for which its pictures were read: once is enough."""

    job: EditJob
    prompts: tuple[str, ...]
    pictures: tuple[tuple[Hashable, Pixels], ...]


class Encoder:
    """cache_bytes: bound of the text encodings and image latents kept, half of it for each kind."""

    def __init__(self, family: Family, runner: Runner, cache_bytes: int) -> None:
        self._family = family
        self._runner = runner
        self.texts: ByteLRU[TextEncoding] = ByteLRU(cache_bytes // 2)
        self.images: ByteLRU[torch.Tensor] = ByteLRU(cache_bytes // 2)

    @property
    def used_bytes(self) -> int:
        return self.texts.used_bytes + self.images.used_bytes

    def parts(self, job: EditJob) -> Parts:
        pictures = tuple((_content(pixels), pixels) for pixels in (job.canvas, *job.references))
        return Parts(job, self._family.text_prompts(job), pictures)

    def keeps(self, parts: Parts) -> bool:
        """Whether nothing of the job is left to encode."""
        return all(prompt in self.texts for prompt in parts.prompts) and all(
            k in self.images for k, _ in parts.pictures
        )

    def encode(self, wanted: Sequence[Parts], most: float = math.inf) -> list[Encodings | Exception]:
        """For each of the jobs its encodings, or why there are none. What several need is encoded once. most: texts or
        pictures of a call.

        Raises BackendLost, as `Runner.run` does.
        """
        prompts = {prompt: prompt for parts in wanted for prompt in parts.prompts}
        pictures = {key: pixels for parts in wanted for key, pixels in parts.pictures}
        texts = self._fetch(self.texts, prompts, self._family.encode_text, _text_bytes, most)
        images = self._fetch(self.images, pictures, self._family.encode_image, lambda tensor: tensor.nbytes, most)
        return [self._encodings(parts, texts, images) for parts in wanted]

    def _fetch(
        self,
        cache: ByteLRU[Value],
        wanted: Mapping[Hashable, Pixels] | Mapping[str, str],
        encode: Callable[..., Stage[Value]],
        size_bytes: Callable[[Value], int],
        most: float,
    ) -> dict[Hashable, Value | Exception]:
        """By content, from the cache or encoded now. wanted: what to encode, by content."""
        found: dict[Hashable, Value | Exception] = {}
        missing: dict[Hashable, Stage[Value]] = {}
        for key, source in wanted.items():
            kept = cache.get(key)
            if kept is None:
                missing[key] = encode(source)
            else:
                found[key] = kept
        for key, value in zip(missing, self._runner.run(tuple(missing.values()), most=most), strict=True):
            found[key] = value
            if not isinstance(value, Exception):
                cache.put(key, value, size_bytes(value))
        return found

    def _encodings(
        self,
        parts: Parts,
        texts: Mapping[Hashable, TextEncoding | Exception],
        images: Mapping[Hashable, torch.Tensor | Exception],
    ) -> Encodings | Exception:
        read = [texts[prompt] for prompt in parts.prompts]
        seen = [images[key] for key, _ in parts.pictures]
        failure = next((one for one in (*read, *seen) if isinstance(one, Exception)), None)
        if failure:
            return failure
        text = tuple(one for one in read if isinstance(one, TextEncoding))
        image = tuple(one for one in seen if isinstance(one, torch.Tensor))
        prompt = text[parts.prompts.index(parts.job.prompt)]
        usage = Usage(
            text_tokens=prompt.tokens,
            image_tokens=self._family.tokens(image),
            output_tokens=self._family.tokens(image[:1]) * len(parts.job.seeds),
        )
        return Encodings(text, image, usage, revised_prompt=prompt.cut_to)


def _content(pixels: Pixels) -> Hashable:
    return pixels.shape, hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=32).digest()


def _text_bytes(text: TextEncoding) -> int:
    return sum(tensor.nbytes for tensor in text.tensors.values())
