"""Calls of a module as CUDA graphs: what was recorded once for the shapes of its inputs is launched as one piece."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 16
"""Sets of shapes that are remembered, and the most graphs: sizes times batch sizes that one component sees."""

Run = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """inputs and outputs: where the graph reads and writes; every replay writes over the outputs of the last."""

    graph: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    outputs: tuple[Tensor, ...]

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.outputs


class CudaGraphs:
    """Runs `run` as it is where shapes come for the first time, and by a graph from the second time on.

    run: a function of tensors on the device that always launches the same kernels for the same shapes. What it cannot
    record, as where the host waits for the device, stays as it is and is told in the log.
    name: of what runs, for the log. The graphs share their memory: one runs at a time, on the caller's stream.
    """

    def __init__(self, name: str, run: Run, device: torch.device) -> None:
        self._name, self._run, self._device = name, run, device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._ways: OrderedDict[Hashable, Run | None] = OrderedDict()

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs are valid until the next call."""
        shapes = _shapes(inputs)
        if shapes not in self._ways:
            self._keep(shapes, None)
            return self._run(inputs)
        way = self._ways[shapes] or self._recorded(inputs)
        self._keep(shapes, way)
        return way(inputs)

    def _keep(self, shapes: Hashable, way: Run | None) -> None:
        """Those used longest ago make room."""
        self._ways[shapes] = way
        self._ways.move_to_end(shapes)
        if len(self._ways) > KEPT:
            self._ways.popitem(last=False)

    def _recorded(self, inputs: Mapping[str, Tensor]) -> Run:
        placed = {name: torch.empty_like(tensor).copy_(tensor) for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        callers = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(callers)
        try:
            # The stream is entered here as well: a recording that fails does not leave it.
            with torch.cuda.stream(self._stream), _no_waits():
                self._run(placed)
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
            ):
                outputs = self._run(placed)
        except RuntimeError as error:
            log.warning("the %s runs without a CUDA graph: %s", self._name, next(iter(str(error).splitlines()), ""))
            return self._run
        finally:
            callers.wait_stream(self._stream)
        return _Recorded(graph, placed, outputs)


@contextmanager
def _no_waits() -> Generator[None]:
    """Where the host would wait for the device is an error: such a run cannot be recorded, and a recording that broke
    off would be harder to recover from."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _shapes(inputs: Mapping[str, Tensor]) -> Hashable:
    return tuple((name, tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in inputs.items())
