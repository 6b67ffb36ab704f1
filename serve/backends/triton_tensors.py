"""How a component's tensors travel to a Triton server and back: in the messages, or in memory that both see."""

import logging
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from serve.backends.checks import DTYPES, shape_of
from serve.backends.manifest import VERSION
from serve.backends.triton_memory import Region, SharingRefused, layout_of, new_region, remove_orphans
from serve.backends.triton_server import Refused, TritonServer
from serve.backends.triton_words import DATATYPES, calls, sent_shape
from serve.errors import BackendUnavailable, DeviceOutOfMemory
from serve.types import ComponentSpec, TensorSpec

log = logging.getLogger(__name__)

MOST_ABANDONED = 8
"""Regions of calls that were given up on. Each stands for a call that took all of its time, so few come together."""


class Travel(Protocol):
    def run(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
        """One call. lengths: of the axes in it. Answers tensors that are the caller's own.

        Raises what `TritonServer.infer` does, and SharingRefused.
        """
        ...


class InMessages:
    """Raw bytes in the messages, bfloat16 like any other type. model: its name on the server."""

    def __init__(self, server: TritonServer, model: str, spec: ComponentSpec, device: torch.device) -> None:
        self._server, self._model, self._spec, self._device = server, model, spec, device

    def run(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
        request = _request(self._model, self._spec, lengths)
        for spec in self._spec.inputs:
            data = inputs[spec.name].cpu().contiguous().flatten().view(torch.uint8)
            request.raw_input_contents.append(data.numpy().tobytes())
        response = self._server.infer(request)
        raw = {
            output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }

        def read(spec: TensorSpec, shape: tuple[int, ...]) -> Tensor:
            return torch.frombuffer(bytearray(raw[spec.name]), dtype=DTYPES[spec.dtype]).view(shape).to(self._device)

        return {spec.name: _declared(spec, read(spec, _shape(response, spec)), lengths) for spec in self._spec.outputs}


class InSharedMemory:
    """One region for all tensors of a component: its inputs one behind the other, then its outputs.

    It is made anew where a call needs a larger one, and registered again where the server has been started anew. A
    region whose call failed is abandoned, as the server may still write into it: it is let go of once a later call was
    answered, since a model's one instance takes its requests in their order.
    """

    def __init__(self, server: TritonServer, model: str, spec: ComponentSpec, device: torch.device) -> None:
        self._server, self._model, self._spec, self._device = server, model, spec, device
        self._regions = _Regions()
        weakref.finalize(self, _release, server, self._regions)

    def run(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
        places, size = layout_of((*self._spec.inputs, *self._spec.outputs), lengths)
        region = self._roomy(size)
        for spec in self._spec.inputs:
            region.tensor(places[spec.name], spec.dtype, shape_of(spec, lengths)).copy_(inputs[spec.name])
        region.synchronize()
        request = _request(self._model, self._spec, lengths)
        request.outputs.extend(
            calls.ModelInferRequest.InferRequestedOutputTensor(name=spec.name) for spec in self._spec.outputs
        )
        for tensor in (*request.inputs, *request.outputs):
            place = places[tensor.name]
            tensor.parameters["shared_memory_region"].string_param = region.name
            tensor.parameters["shared_memory_offset"].int64_param = place.offset
            tensor.parameters["shared_memory_byte_size"].int64_param = place.size
        response = self._infer(region, request)
        outputs = {
            spec.name: _declared(
                spec, region.tensor(places[spec.name], spec.dtype, _shape(response, spec)), lengths
            ).clone()
            for spec in self._spec.outputs
        }
        self._let_go()
        return outputs

    def close(self) -> None:
        """Let go of all memory. No call is under way."""
        _release(self._server, self._regions)

    def _roomy(self, size: int) -> Region:
        """The region, registered and of that many bytes at least."""
        region = self._regions.current
        if region is not None and region.size >= size:
            return region
        if region is not None:
            self._regions.current = None
            _drop(self._server, region)
        region = new_region(size, self._device)
        try:
            self._register(region)
        except (BackendUnavailable, SharingRefused):
            region.close()
            raise
        self._regions.current = region
        self._remove_orphans()
        return region

    def _remove_orphans(self) -> None:
        """The server would hold their memory for good."""
        for name in remove_orphans():
            self._server.unregister("System", name)

    def _register(self, region: Region) -> None:
        try:
            self._server.register(region.kind, region.name, region.registration)
        except Refused as error:
            raise SharingRefused(str(error)) from error

    def _infer(self, region: Region, request: Any) -> Any:
        try:
            return self._sent(request)
        except Refused:
            if region.name in self._server.regions(region.kind):
                raise
        self._register(region)
        return self._sent(request)

    def _sent(self, request: Any) -> Any:
        try:
            return self._server.infer(request)
        except DeviceOutOfMemory:
            raise
        except BackendUnavailable:
            self._abandon()
            raise

    def _abandon(self) -> None:
        regions = self._regions
        if regions.current is not None:
            regions.abandoned.append(regions.current)
            regions.current = None
        if len(regions.abandoned) > MOST_ABANDONED:
            regions.abandoned.pop(0).close()

    def _let_go(self) -> None:
        while self._regions.abandoned:
            _drop(self._server, self._regions.abandoned.pop())


@dataclass(slots=True)
class _Regions:
    """current: in which calls are made, none of which is under way between two of `InSharedMemory.run`."""

    current: Region | None = None
    abandoned: list[Region] = field(default_factory=list["Region"])


def _release(server: TritonServer, regions: _Regions) -> None:
    held = [*regions.abandoned, *filter(None, [regions.current])]
    regions.abandoned, regions.current = [], None
    for region in held:
        _drop(server, region)


def _drop(server: TritonServer, region: Region) -> None:
    """A server that is away has forgotten the region by itself."""
    with suppress(BackendUnavailable, Refused):
        server.unregister(region.kind, region.name)
    region.close()


def _request(model: str, spec: ComponentSpec, lengths: Mapping[str, int]) -> Any:
    tensor = calls.ModelInferRequest.InferInputTensor
    inputs = [
        tensor(name=one.name, datatype=DATATYPES[one.dtype], shape=sent_shape(shape_of(one, lengths)))
        for one in spec.inputs
    ]
    return calls.ModelInferRequest(model_name=model, model_version=VERSION, inputs=inputs)


def _shape(response: Any, spec: TensorSpec) -> tuple[int, ...]:
    return next(tuple(output.shape) for output in response.outputs if output.name == spec.name)


def _declared(spec: TensorSpec, tensor: Tensor, lengths: Mapping[str, int]) -> Tensor:
    """In the shape that is declared, where it is the one that travels for it; any other is left for `Checks`."""
    expected = shape_of(spec, lengths)
    return tensor.view(expected) if tuple(tensor.shape) == sent_shape(expected) else tensor
