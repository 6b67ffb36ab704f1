"""Where and how training computes: in bfloat16, compiled, on a GPU or on CPU cores."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Item_co = TypeVar("Item_co", covariant=True)
SHAPES = 64
"""Of batches, with and without gradients, that a block is compiled for; any more would run uncompiled."""


class Numbered(Protocol[Item_co]):
    """A sequence without an end, whose items follow from their numbers."""

    def __getitem__(self, number: int) -> Item_co: ...


def training_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16)


def compiled(module: nn.Module, device: torch.device) -> Callable[..., Any]:
    """Compiled on a GPU for each shape that it meets, which takes a minute the first time.

    As it is on a CPU, where gradients of what is compiled in bfloat16 are far from the true ones: their cosine is 0.64
    for a decoder (PyTorch 2.13), and training hardly goes on.
    """
    return module if device.type == "cpu" else torch.compile(module, dynamic=False)


def blocks_compiled(transformer: Any, device: torch.device) -> None:
    """As `compiled`, but each kind of block once for all shapes, in place: seconds rather than minutes a shape.

    On a CPU only single blocks, whose gradients come out right; those of double ones are no numbers (PyTorch 2.13).
    """
    if device.type != "cpu":
        transformer.compile_repeated_blocks(dynamic=True)
    else:
        for block in transformer.single_transformer_blocks:
            block.compile(recompile_limit=SHAPES)


@contextmanager
def attention(device: torch.device) -> Generator[None]:
    """On a CPU attention is two products of matrices: PyTorch's own, which spares memory, has a backward pass in
    bfloat16 that takes half of a step (2.13)."""
    functional.scaled_dot_product_attention = _as_products if device.type == "cpu" else _NATIVE
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = _NATIVE


_NATIVE = functional.scaled_dot_product_attention


def _as_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p or enable_gqa or (attn_mask is not None and attn_mask.dtype == torch.bool):
        return _NATIVE(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype).triu(1)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).to(value.dtype) @ value


def ahead(items: Numbered[Item_co], device: torch.device) -> Callable[[int], Item_co]:
    """Answers items by number; beside a GPU the next one is made while the last is computed with."""
    if device.type == "cpu":
        return items.__getitem__
    maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
    coming: dict[int, Future[Item_co]] = {}

    def take(number: int) -> Item_co:
        present = coming.pop(number, None) or maker.submit(items.__getitem__, number)
        item = present.result()
        coming[number + 1] = maker.submit(items.__getitem__, number + 1)
        return item

    return take
