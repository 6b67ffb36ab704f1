"""The networks of the fake family: small products of real matrices. Each is told which rows it is called with.

The last input of each names the rows and takes no part in what is computed.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from serve.backends.base import Component, device_faults
from serve.types import Axis, ComponentSpec, TensorSpec

PATCH = 2
CHANNELS = 3 * PATCH * PATCH
TEXT = 8
HIDDEN = 256
"""Wide enough that the bytes of a row depend on how many are computed together."""

_CELLS = ("batch", "tokens", CHANNELS)
_AXES = (Axis("batch", 1, 4, 64), Axis("tokens", 1, 16, 4096))

TEXT_ENCODER = ComponentSpec(
    name="text_encoder",
    inputs=(TensorSpec("words", "float32", ("batch", TEXT)), TensorSpec("who", "int64", ("batch",))),
    outputs=(TensorSpec("text", "float32", ("batch", TEXT)),),
    axes=_AXES[:1],
)
IMAGE_ENCODER = ComponentSpec(
    name="image_encoder",
    inputs=(TensorSpec("cells", "float32", _CELLS), TensorSpec("who", "int64", ("batch",))),
    outputs=(TensorSpec("latents", "float32", _CELLS),),
    axes=_AXES,
)
DENOISER = ComponentSpec(
    name="denoiser",
    inputs=(
        TensorSpec("latents", "float32", _CELLS),
        TensorSpec("source", "float32", _CELLS),
        TensorSpec("text", "float32", ("batch", TEXT)),
        TensorSpec("sigma", "float32", ("batch",)),
        TensorSpec("who", "int64", ("batch",)),
    ),
    outputs=(TensorSpec("velocity", "float32", _CELLS),),
    axes=_AXES,
)
DECODER = ComponentSpec(
    name="decoder",
    inputs=(TensorSpec("latents", "float32", _CELLS), TensorSpec("who", "int64", ("batch",))),
    outputs=(TensorSpec("cells", "float32", _CELLS),),
    axes=_AXES,
)


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._into, self._out = _random(1, TEXT, HIDDEN), _random(2, HIDDEN, TEXT) / 16

    def forward(self, words: Tensor, who: Tensor) -> Tensor:
        return torch.tanh(words @ self._into) @ self._out


class ImageEncoder(nn.Module):
    """A rotation, which `Decoder` turns back."""

    def __init__(self) -> None:
        super().__init__()
        self._turned = _rotation()

    def forward(self, cells: Tensor, who: Tensor) -> Tensor:
        return cells @ self._turned


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._into = _random(3, 2 * CHANNELS + TEXT + 1, HIDDEN) / 8
        self._text = _random(4, TEXT, HIDDEN)
        self._out = _random(5, HIDDEN, CHANNELS) / 16

    def forward(self, latents: Tensor, source: Tensor, text: Tensor, sigma: Tensor, who: Tensor) -> Tensor:
        tokens = latents.shape[1]
        texts, sigmas = text[:, None].expand(-1, tokens, -1), sigma[:, None, None].expand(-1, tokens, 1)
        features = torch.cat([latents, source, texts, sigmas], dim=-1)
        hidden = torch.tanh(features @ self._into + (text @ self._text)[:, None])
        return hidden @ self._out


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._turned_back = _rotation().T.contiguous()

    def forward(self, latents: Tensor, who: Tensor) -> Tensor:
        return latents @ self._turned_back


class WatchedComponent:
    """Tells which rows it is about to be called with. What that raises for a device comes as a real backend's does."""

    def __init__(self, component: Component, before_call: Callable[[list[int]], None]) -> None:
        self.spec = component.spec
        self._component = component
        self._before_call = before_call

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with device_faults(self.spec.name):
            self._before_call(inputs["who"].tolist())
        return self._component(inputs)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _rotation() -> Tensor:
    return torch.linalg.qr(_random(6, CHANNELS, CHANNELS)).Q
