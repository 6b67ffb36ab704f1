"""Mixing 8-bit pictures by 8-bit weights, in integers, so that weights 0 and 255 change nothing at all."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from serve.codec.bands import bands
from serve.types import Pixels


def compose(canvas: Pixels, edited: Pixels, mask: Pixels | None) -> Pixels:
    """(H, W, 3): the canvas where the mask is 0, the edited picture where it is 255, bit for bit; between, both.

    canvas: (H, W, 3) at the output size. edited: (h, w, 3), brought to that size (Lanczos) if drawn at another.
    mask: (H, W), or None for all of the edited picture. The mix is `round(((255 - m) * canvas + m * edited) / 255)`.
    """
    height, width = canvas.shape[:2]
    if edited.shape != canvas.shape:
        edited = np.asarray(Image.fromarray(edited).resize((width, height), Image.Resampling.LANCZOS))
    return edited if mask is None else _mix(canvas, edited, mask)


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    """colour (H, W, C) with alpha (H, W), 255 is opaque, before a white ground."""
    mixed = np.empty(colour.shape, np.uint8)
    for rows in bands(len(colour)):
        mixed[rows] = ~divide_255(np.multiply(~colour[rows], alpha[rows, :, None], dtype=np.uint16))
    return mixed


def divide_255(products: npt.NDArray[np.uint16]) -> Pixels:
    """round(p / 255) for p of 0 to 255 * 255, without a division. Changes `products`."""
    products += 128
    products += products >> 8
    products >>= 8
    return products.astype(np.uint8)


def _mix(canvas: Pixels, edited: Pixels, mask: Pixels) -> Pixels:
    weight = mask[..., None]
    products = np.multiply(canvas, ~weight, dtype=np.uint16)
    products += np.multiply(edited, weight, dtype=np.uint16)
    return divide_255(products)
