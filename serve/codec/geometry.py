"""Sizes and scaling: which size a picture is drawn at, and how sources, masks and references get there."""

import math

import numpy as np
from PIL import Image

from serve.types import ModelFacts, Pixels, Size

AUTO_PIXELS = 1024 * 1024
"""Area that an output of size `auto` has at most, if the model can draw a side of that length."""
MAX_ENLARGEMENT = 4.0
"""How many times longer a side of a reference may become; beyond it tokens are spent on pixels that say nothing."""
MAX_REFERENCE_STRETCH = 4
"""How many times longer a side of a reference may be than that of a square of the same area."""


def cover(pixels: Pixels, size: Size) -> Pixels:
    """(H, W, 3) scaled (Lanczos) to cover `size`, its centre cut out. A picture of that size is returned as it is."""
    return _cover(pixels, size, Image.Resampling.LANCZOS)


def cover_mask(mask: Pixels, size: Size) -> Pixels:
    """(H, W) brought to `size` by the geometry of `cover`, bilinear, so that no value leaves its neighbours' range."""
    return _cover(mask, size, Image.Resampling.BILINEAR)


def draw_size(output: Size, facts: ModelFacts) -> Size:
    """The size that the model draws for an output of that size: the same where it draws that well.

    Otherwise the nearest scale at which no side is below draw_min or, which goes first, above draw_max; each side is
    then rounded to the model's multiple. The aspect is the output's, up to that rounding.
    """
    return _within(output, 1.0, facts)


def auto_size(source: Size, facts: ModelFacts) -> Size:
    """The output size for `auto`: the source's aspect and area, but at most `AUTO_PIXELS`, within the model's range.

    Both sides are multiples of the model's, from draw_min to draw_max; an aspect beyond their ratio becomes that ratio.
    """
    return _within(source, min(1.0, math.sqrt(AUTO_PIXELS / (source[0] * source[1]))), facts)


def fit_reference(pixels: Pixels, area: int, multiple: int) -> Pixels:
    """(h, w, 3) scaled (Lanczos) to about `area` pixels, its aspect kept, both sides multiples of `multiple`.

    Enlarged at most `MAX_ENLARGEMENT` times along a side. What the multiples leave over is cut off at the edges, so
    that nothing is distorted; a side is at most `MAX_REFERENCE_STRETCH` times that of a square, and cut beyond it.
    """
    height, width = pixels.shape[:2]
    scale = min(math.sqrt(area / (width * height)), MAX_ENLARGEMENT)
    longest = _longest_reference(area, multiple)
    sides = (_to_multiple(side * scale, multiple, multiple, longest) for side in (width, height))
    return cover(pixels, (next(sides), next(sides)))


def largest_drawn(facts: ModelFacts) -> list[Size]:
    """Of each width that `draw_size` and `auto_size` answer, the greatest height."""
    return _largest(AUTO_PIXELS, facts.draw_min, facts.draw_max, facts.multiple)


def largest_read(facts: ModelFacts) -> list[Size]:
    """Of each width that `fit_reference` gives a reference of the model, the greatest height; none where it reads
    none."""
    if facts.max_images == 1:
        return []
    longest = _longest_reference(facts.reference_pixels, facts.multiple)
    return _largest(facts.reference_pixels, facts.multiple, longest, facts.multiple)


def square_reference(facts: ModelFacts) -> Size:
    """What becomes of a square reference that is large enough."""
    side = _to_multiple(math.sqrt(facts.reference_pixels), facts.multiple, facts.multiple, facts.reference_pixels)
    return side, side


def _largest(area: int, least: int, most: int, multiple: int) -> list[Size]:
    """Before its sides were rounded, a picture had that area at most, but for one as narrow as can be, which may have
    been narrower."""
    narrowest, *wider = range(-(-least // multiple) * multiple, most + 1, multiple)
    highest = [(width, _to_multiple(area / (width - multiple / 2), multiple, least, most)) for width in wider]
    return [(narrowest, most // multiple * multiple), *highest]


def _longest_reference(area: int, multiple: int) -> int:
    return max(math.isqrt(area) * MAX_REFERENCE_STRETCH, multiple)


def _within(size: Size, scale: float, facts: ModelFacts) -> Size:
    shortest, longest = min(size), max(size)
    scale = max(scale, facts.draw_min / shortest)
    scale = min(scale, facts.draw_max / longest)
    width, height = (_to_multiple(side * scale, facts.multiple, facts.draw_min, facts.draw_max) for side in size)
    return width, height


def _to_multiple(side: float, multiple: int, least: int, most: int) -> int:
    """The multiple next to `side` of those from `least` to `most`."""
    nearest = math.floor(side / multiple + 0.5)
    return max(-(-least // multiple), min(nearest, most // multiple)) * multiple


def _cover(pixels: Pixels, size: Size, resampling: Image.Resampling) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    box = _centre((width, height), size)
    return np.asarray(Image.fromarray(pixels).resize(size, resampling, box))


def _centre(source: Size, target: Size) -> tuple[float, float, float, float]:
    """The part of the source, in its pixels (left, top, right, bottom), that becomes the target.

    The cut is at whole pixels of the target, so that a picture that is only cropped is not resampled between pixels.
    """
    scale = max(target[0] / source[0], target[1] / source[1])
    left, right = _span(source[0], target[0], scale)
    top, bottom = _span(source[1], target[1], scale)
    return left, top, right, bottom


def _span(source: int, target: int, scale: float) -> tuple[float, float]:
    length = min(target / scale, source)
    start = math.floor((source * scale - target) / 2 + 1e-6) / scale
    start = min(max(start, 0.0), source - length)
    return start, start + length
