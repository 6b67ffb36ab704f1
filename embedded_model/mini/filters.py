"""Filters of batches of pictures that several edits share. Pictures are (B, C, H, W) float32, lengths are pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

RGB = tuple[float, float, float]


def rgb(colour: RGB, like: Tensor) -> Tensor:
    """A colour that broadcasts over pictures, (3, 1, 1)."""
    return like.new_tensor(colour).view(3, 1, 1)


def luma(pictures: Tensor) -> Tensor:
    """Brightness as the eye weighs it (ITU-R BT.601), (B, 1, H, W)."""
    red, green, blue = pictures.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blur(pictures: Tensor, sigma_px: float) -> Tensor:
    """A Gaussian blur; pictures are mirrored at their edges."""
    radius = int(3 * sigma_px)
    offsets = torch.arange(-radius, radius + 1, device=pictures.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).to(pictures.dtype)
    planes = _planes(pictures)
    planes = functional.conv2d(functional.pad(planes, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
    planes = functional.conv2d(functional.pad(planes, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return planes.view_as(pictures)


def kuwahara(pictures: Tensor, radius_px: int) -> Tensor:
    """Each pixel becomes the mean of the smoothest of the four squares that it is a corner of: flat dabs, sharp edges.

    M. Kuwahara et al., Processing of RI-angiocardiographic images, 1976.
    """
    height, width = pictures.shape[-2:]
    with_squares = torch.cat((pictures, luma(pictures) ** 2), dim=1)
    padded = functional.pad(with_squares, (radius_px,) * 4, mode="reflect")
    means = functional.avg_pool2d(padded, radius_px + 1, stride=1)
    variances = means[:, 3:] - luma(means[:, :3]) ** 2
    best = least = None
    for top, left in ((0, 0), (0, radius_px), (radius_px, 0), (radius_px, radius_px)):
        window = (..., slice(top, top + height), slice(left, left + width))
        mean, variance = means[:, :3][window], variances[window]
        if best is None or least is None:
            best, least = mean, variance
        else:
            best, least = torch.where(variance < least, mean, best), torch.minimum(variance, least)
    assert best is not None
    return best


def shifted_down_right(pictures: Tensor, distance_px: int) -> Tensor:
    """The pictures moved; their first row and column fill what is uncovered."""
    padded = functional.pad(pictures, (distance_px, 0, distance_px, 0), mode="replicate")
    return padded[..., : pictures.shape[-2], : pictures.shape[-1]]


def positions(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel's centre lies on the canvas: x (1, W) and y (H, 1), from 0 to 1."""
    height, width = pictures.shape[-2:]
    x, y = pixel_centres((height, width), pictures)
    return x / width, y / height


def pixel_centres(size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The same in pixels, for a canvas of `size` (H, W)."""
    height, width = size
    x = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
    y = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
    return x[None, :], y[:, None]


def along(values: Tensor, stops: Sequence[float], colours: Sequence[RGB]) -> Tensor:
    """A gradient through `colours` at `stops` (rising); values (H, W) give (3, H, W)."""
    mixed = rgb(colours[0], values).expand(3, *values.shape)
    for start, end, colour in zip(stops, stops[1:], colours[1:], strict=False):
        mixed = torch.lerp(mixed, rgb(colour, values), ((values - start) / (end - start)).clamp(0, 1))
    return mixed


def _planes(pictures: Tensor) -> Tensor:
    """One channel each: a depthwise convolution of few channels is slower."""
    return pictures.reshape(-1, 1, *pictures.shape[-2:])
