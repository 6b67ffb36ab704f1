"""The pictures that requests carry: made here from a seed, or a folder's own, always as PNG.

A made picture is smooth shapes under a fine grain, so that its PNG is about as large as a photograph's (100 to 400 KB
at 512 pixels) and nothing in a server can be quicker on it than on one.
"""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmarks.errors import BenchError
from benchmarks.workload import Mask

Pixels = npt.NDArray[np.uint8]
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
GRAIN = 1.0
"""Standard deviation of the grain, in levels of 255."""


@dataclass(frozen=True, slots=True)
class PictureKey:
    """Names one picture of a run. file: an own picture in place of a made one, sent in this size as well."""

    width: int
    height: int
    number: int
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class MaskKey:
    """A mask of that size in pixels."""

    width: int
    height: int
    shape: Mask


@dataclass(frozen=True, slots=True)
class Encoded:
    """One PNG file in the two forms that bodies take."""

    png: bytes
    base64: bytes

    @classmethod
    def of(cls, picture: Image.Image) -> "Encoded":
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        png = file.getvalue()
        return cls(png, base64.b64encode(png))


@dataclass(frozen=True)
class Pictures:
    """Makes each picture once and keeps it. files: picture `number` is the file of that number, counted round."""

    seed: int = 0
    files: tuple[Path, ...] = ()
    _kept: dict[PictureKey | MaskKey, Encoded] = field(default_factory=dict[PictureKey | MaskKey, Encoded])

    @classmethod
    def of_folder(cls, folder: Path) -> "Pictures":
        """The pictures in a folder, by name. Raises BenchError where there is none."""
        files = tuple(sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES))
        if not files:
            raise BenchError(f"the folder {folder} holds no PNG, JPEG or WebP")
        return cls(files=files)

    def encoded(self, key: PictureKey | MaskKey) -> Encoded:
        if key not in self._kept:
            self._kept[key] = Encoded.of(self._mask(key) if isinstance(key, MaskKey) else self._picture(key))
        return self._kept[key]

    def _picture(self, key: PictureKey) -> Image.Image:
        file = key.file or (self.files[key.number % len(self.files)] if self.files else None)
        return made(key, self.seed) if file is None else _fitted(file, key)

    @staticmethod
    def _mask(key: MaskKey) -> Image.Image:
        """White is edited, and so is transparent: the one mask serves servers of either convention."""
        light = _light(key)
        return Image.fromarray(np.dstack([light, light, light, 255 - light]))


def made(key: PictureKey, seed: int) -> Image.Image:
    """The picture of that key, the same for the same seed."""
    random = np.random.default_rng([seed, key.width, key.height, key.number])
    levels = _shapes(random, key, cells=5, contrast=220.0) + _shapes(random, key, cells=40, contrast=30.0)
    levels += random.normal(0.0, GRAIN, (key.height, key.width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(levels + 127.5, 0, 255).astype(np.uint8))


def _shapes(random: np.random.Generator, key: PictureKey, cells: int, contrast: float) -> npt.NDArray[np.float32]:
    """(H, W, 3), smooth, around 0: random colours at the corners of a grid, with what lies between interpolated."""
    corners = ((random.random((cells, cells, 3)) - 0.5) * contrast).astype(np.float32)
    channels = [
        Image.fromarray(corners[:, :, channel]).resize((key.width, key.height), Image.Resampling.BICUBIC)
        for channel in range(3)
    ]
    return np.dstack([np.asarray(channel, np.float32) for channel in channels])


def _light(key: MaskKey) -> Pixels:
    """(H, W): 255 where the picture is edited."""
    light = np.zeros((key.height, key.width), np.uint8)
    if key.shape == "half":
        light[:, : key.width // 2] = 255
    elif key.shape == "centre":
        light[key.height // 4 : -(-key.height * 3 // 4), key.width // 4 : -(-key.width * 3 // 4)] = 255
    elif key.shape == "soft":
        light[:] = np.linspace(255, 0, key.width).astype(np.uint8)
    return light


def _fitted(file: Path, key: PictureKey) -> Image.Image:
    try:
        with Image.open(file) as picture:
            return ImageOps.fit(picture.convert("RGB"), (key.width, key.height), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BenchError(f"the picture {file} cannot be read: {error}") from None
