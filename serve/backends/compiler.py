"""torch.compile, so that a large network of equal blocks is compiled in seconds."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from serve.errors import ConfigurationError

SHAPES = 64
"""That one function is compiled for. Those beyond it would silently run uncompiled; torch's own limit is 8."""
NEARLY_ALL = 0.9
"""Of the weights, that repeated blocks must hold for the rest to stay uncompiled."""


def prepare(device: torch.device) -> None:
    """Compiles something small: the compiler is first looked for when it is needed, which would be in a request.

    Raises ConfigurationError: it does not work here.
    """
    torch._dynamo.config.recompile_limit = SHAPES  # pyright: ignore[reportPrivateUsage]
    try:
        torch.compile(nn.functional.silu)(torch.ones(2, device=device))
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(f"compile: torch.compile does not work on this machine: {reason}") from None


def compiled(module: nn.Module) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The module, compiled anew for each set of shapes. Where diffusers names blocks that repeat and hold nearly all
    weights, each kind of block is compiled once for all, in place; else the module as a whole."""
    blocks = repeated_blocks(module)
    held = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    if held < NEARLY_ALL * sum(parameter.numel() for parameter in module.parameters()):
        return torch.compile(module, dynamic=False)
    for block in blocks:
        block.compile(dynamic=False)
    return module


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """Of the kinds that diffusers' models list as theirs, which is private but what its own compilation goes by."""
    kinds = {kind for part in module.modules() for kind in getattr(part, "_repeated_blocks", None) or ()}
    return [part for part in module.modules() if type(part).__name__ in kinds]
