"""One engine and its profiles: a context with a CUDA graph for each shape that it was built for, and one a range.

The caller's stream and the engines' own wait for each other by events; the host waits for nothing. Once a shape has
run, a call asks the driver for no memory: inputs are copied to where the graph reads them, and outputs from where it
writes them into blocks of torch's caching allocator, which the caller keeps.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor

from serve.backends.base import device_faults
from serve.backends.checks import DTYPES, Checks, shape_of
from serve.backends.shapes import Advice, Shapes, limited, unbuilt
from serve.types import ComponentSpec

ALIGNMENT_BYTES = 256
"""That TensorRT asks of a tensor's address."""

log = logging.getLogger(__name__)


class Unusable(Exception):
    """An engine that cannot run here; the message says why."""


class Lane:
    """The stream that all engines of a process run on, one after the other, and the scratch memory that they share.

    recorded: whether profiles of one shape run as CUDA graphs.
    """

    def __init__(self, device: torch.device, *, recorded: bool) -> None:
        self.device, self.recorded = device, recorded
        self.stream = torch.cuda.Stream(device)
        self._reserved_bytes = 0
        self._kept: Tensor | None = None

    @contextmanager
    def entered(self) -> Generator[None]:
        """Inside, torch works on this stream, after all that the caller's was given; what the caller's is given next
        waits for it. So memory that either stream frees may be used by the other at once."""
        callers = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(callers)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            callers.wait_stream(self.stream)

    def reserve(self, scratch_bytes: int) -> None:
        self._reserved_bytes = max(self._reserved_bytes, scratch_bytes)

    def scratch(self, scratch_bytes: int) -> Tensor:
        """Memory that work on this stream may write to; it stays as long as somebody holds it.

        Up to what was reserved it is the same for everyone; beyond it, the caller's own.
        """
        if scratch_bytes > self._reserved_bytes:
            return self._allocated(scratch_bytes)
        if self._kept is None or len(self._kept) < self._reserved_bytes:
            self._kept = self._allocated(self._reserved_bytes)
        return self._kept

    def _allocated(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.device)


class TensorRtComponent:
    """plan: the library's engine. logger: that it was loaded with. shapes: that it was built for, up to the rows of a
    batch. advice: how to build another. Raises Unusable: the plan is not of this component, or not of these shapes.
    """

    def __init__(
        self, spec: ComponentSpec, trt: Any, plan: Any, logger: Any, shapes: Shapes, lane: Lane, advice: Advice
    ) -> None:
        self.spec = spec = limited(spec, shapes.rows)
        self._shapes, self._advice = shapes, advice
        self._checks = Checks(spec, lane.device)
        self._check(plan)
        tensors = (*spec.inputs, *spec.outputs)
        room = {
            tensor.name: torch.empty(
                max((prod(shape_of(tensor, lengths)) for lengths in shapes.static), default=0),
                dtype=DTYPES[tensor.dtype],
                device=lane.device,
            )
            for tensor in tensors
        }
        contexts = [_Context(spec, trt, plan, profile, logger, lane) for profile in range(self._profiles)]
        self._fixed = [
            _Fixed(
                contexts[profile],
                {tensor.name: _shaped(room[tensor.name], shape_of(tensor, lengths)) for tensor in tensors},
                lengths,
            )
            for profile, lengths in enumerate(shapes.static)
        ]
        self._ranged = [_Ranged(context) for context in contexts[len(shapes.static) :]]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raises UnsupportedParameter as well: the engine was built for other sizes."""
        lengths = self._checks.inputs(inputs)
        profile = self._shapes.profile(lengths)
        if profile is None:
            raise unbuilt(self.spec, self._shapes, lengths, self._advice)
        with device_faults(self.spec.name):
            if profile < len(self._fixed):
                return self._fixed[profile](inputs)
            return self._ranged[profile - len(self._fixed)](inputs, lengths)

    @property
    def _profiles(self) -> int:
        return len(self._shapes.static) + len(self._shapes.ranges)

    def _check(self, plan: Any) -> None:
        declared = {tensor.name for tensor in (*self.spec.inputs, *self.spec.outputs)}
        found = {plan.get_tensor_name(index) for index in range(plan.num_io_tensors)}
        if declared != found:
            raise Unusable(f"it has the tensors {', '.join(sorted(found))}, not {', '.join(sorted(declared))}")
        if plan.num_optimization_profiles != self._profiles:
            raise Unusable(f"it has {plan.num_optimization_profiles} profiles, not {self._profiles}")


class _Context:
    """An execution context of one profile, without scratch memory of its own."""

    def __init__(self, spec: ComponentSpec, trt: Any, plan: Any, profile: int, logger: Any, lane: Lane) -> None:
        self.spec, self.lane = spec, lane
        self._logger = logger
        self._context = _created(trt, plan)
        if self._context is None:
            raise Unusable(logger.told())
        if not self._context.set_optimization_profile_async(profile, lane.stream.cuda_stream):
            raise Unusable(logger.told())
        lane.stream.synchronize()

    def shape(self, lengths: Mapping[str, int]) -> int:
        """Set the shapes of this and the calls that follow; bytes of scratch memory that they need. Raises Unusable."""
        for tensor in self.spec.inputs:
            if not self._context.set_input_shape(tensor.name, shape_of(tensor, lengths)):
                raise Unusable(self._logger.told())
        for tensor in self.spec.outputs:
            found = tuple(self._context.get_tensor_shape(tensor.name))
            if found != shape_of(tensor, lengths):
                raise Unusable(f"its {tensor.name} has shape {found}, not {shape_of(tensor, lengths)}")
        return self._context.update_device_memory_size_for_shapes()

    def bind(self, tensors: Mapping[str, Tensor], scratch: Tensor) -> None:
        for name, tensor in tensors.items():
            if not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise self._failure()
        self._context.set_device_memory(scratch.data_ptr(), len(scratch))

    def launch(self) -> None:
        """On the lane's stream."""
        if not self._context.execute_async_v3(self.lane.stream.cuda_stream):
            raise self._failure()

    def recordable(self) -> bool:
        """Only TensorRT for RTX can tell."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or asked(self.lane.stream.cuda_stream)

    def _failure(self) -> RuntimeError:
        """As torch would raise it, so that `device_faults` knows it."""
        self.lane.stream.query()  # raises where the device itself has failed
        told = self._logger.told()
        kind = torch.OutOfMemoryError if "out of memory" in told.lower() else RuntimeError
        return kind(f"TensorRT failed in {self.spec.name}: {told}")


class _Fixed:
    """A profile of one shape. tensors: where its inputs and outputs lie, which other profiles may share; they hold one
    call's numbers. What the first call launches is recorded as a CUDA graph, and replayed from then on."""

    def __init__(self, context: _Context, tensors: Mapping[str, Tensor], lengths: Mapping[str, int]) -> None:
        self._context, self._lane, self._tensors = context, context.lane, tensors
        self._scratch_bytes = context.shape(lengths)
        self._lane.reserve(self._scratch_bytes)
        self._launch: Callable[[], None] = self._first
        self._scratch: Tensor | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._lane.entered(), torch.inference_mode():
            for name, tensor in inputs.items():
                self._tensors[name].copy_(tensor, non_blocking=True)
            self._launch()
        return {tensor.name: self._tensors[tensor.name].clone() for tensor in self._context.spec.outputs}

    def _first(self) -> None:
        """TensorRT must have run at a shape before it is recorded there; that run is the answer."""
        self._scratch = scratch = self._lane.scratch(self._scratch_bytes)
        self._context.bind(self._tensors, scratch)
        self._context.launch()
        self._launch = self._recorded() or self._context.launch

    def _recorded(self) -> Callable[[], None] | None:
        if not self._lane.recorded:
            return None
        if not self._context.recordable():
            log.warning("the engine of the %s cannot run as a CUDA graph", self._context.spec.name)
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._lane.stream, capture_error_mode="thread_local"):
                self._context.launch()
        except RuntimeError as error:
            log.warning("the engine of the %s runs without a CUDA graph: %s", self._context.spec.name, error)
            return None
        return graph.replay


class _Ranged:
    """The profile that takes any shape in a range. Its outputs are the caller's own from the start."""

    def __init__(self, context: _Context) -> None:
        self._context, self._lane, self._spec = context, context.lane, context.spec
        self._lengths: Mapping[str, int] | None = None
        self._scratch_bytes = 0

    def __call__(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
        outputs = {
            tensor.name: torch.empty(shape_of(tensor, lengths), dtype=DTYPES[tensor.dtype], device=self._lane.device)
            for tensor in self._spec.outputs
        }
        with self._lane.entered(), torch.inference_mode():
            if self._lengths != lengths:
                self._lengths = None
                self._scratch_bytes = self._context.shape(lengths)
                self._lengths = lengths
            placed = {name: _placed(tensor) for name, tensor in inputs.items()}
            scratch = self._lane.scratch(self._scratch_bytes)
            self._context.bind({**placed, **outputs}, scratch)
            self._context.launch()
        return outputs


def _created(trt: Any, plan: Any) -> Any:
    """TensorRT for RTX compiles kernels for a shape when it first comes, and must not do so beside the first calls:
    they would be computed by others than the calls that follow."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    kernels = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if kernels is None:
        return plan.create_execution_context(strategy)
    config = plan.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
    return plan.create_execution_context(config)


def _shaped(room: Tensor, shape: tuple[int, ...]) -> Tensor:
    return room[: prod(shape)].view(shape)


def _placed(tensor: Tensor) -> Tensor:
    """Where and as TensorRT reads it: the same tensor, or a copy."""
    if tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT_BYTES == 0:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
