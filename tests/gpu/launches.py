"""What a call asks of the driver."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

GRAPH_LAUNCH = "cudaGraphLaunch"
KERNEL_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")


def calls(work: Callable[[], object]) -> dict[str, int]:
    """Calls of the driver's functions, by name."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    return {event.key: event.count for event in profiled.key_averages() if event.key.startswith("cu")}


@contextmanager
def without_waiting() -> Generator[None]:
    """Where the host waits for the device, torch raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
