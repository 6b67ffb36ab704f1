"""Data parallelism over processes started by torchrun; one process needs none of it.

On a CPU shared with other work, processes of one thread each are far faster than one process of several threads:
they wait for each other once a step rather than once an operator.
"""

import os

import torch
from torch import Tensor, distributed, nn

RANK = int(os.environ.get("RANK", "0"))
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))


def start() -> None:
    if PROCESSES > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def wait_for_all() -> None:
    if PROCESSES > 1:
        distributed.barrier()


def stop() -> None:
    if PROCESSES > 1:
        distributed.destroy_process_group()


def average_gradients(model: nn.Module) -> None:
    """Replaces each gradient by its mean over the processes, in one exchange."""
    if PROCESSES == 1:
        return
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= PROCESSES
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
