"""Components that a Triton Inference Server runs, out of the model repository that `retouch build-engines` writes."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from serve.backends.base import Build, DeviceMemory
from serve.backends.checks import DTYPES, Checks
from serve.backends.manifest import Engine, behind_triton, triton_name
from serve.backends.memory import memory_of
from serve.backends.shapes import Advice, Asked, Shapes, limited, unbuilt
from serve.backends.torch import open_device
from serve.backends.triton_memory import SharingRefused, cuda_shared_memory
from serve.backends.triton_server import Refused, TritonServer
from serve.backends.triton_tensors import InMessages, InSharedMemory, Travel
from serve.backends.triton_words import DATATYPES, RUNTIME, SHAPES, configs, dims, is_invariant, may_be_joined
from serve.errors import BackendUnavailable, ConfigurationError
from serve.settings import ModelSettings
from serve.types import ComponentSpec, TensorSpec

log = logging.getLogger(__name__)

_KIND_CPU: int = configs.ModelInstanceGroup.KIND_CPU


class TritonBackend:
    """memory: of this process alone; what the server holds is no part of it. device: of the tensors in this process.

    What the models on the server were built from cannot be asked of it: only that types and shapes are right.

    Raises ConfigurationError: no server answers, or the device cannot be used.
    """

    def __init__(self, model: ModelSettings) -> None:
        self._model = model
        self.device = open_device(model.device)
        self.dtype = DTYPES[model.precision]
        self.memory: DeviceMemory = memory_of(self.device)
        if model.triton.shared_memory and self.device.type == "cuda":
            _need_cuda_shared_memory()
        self._server = TritonServer(model.triton)
        version = self._server.await_version()
        self._served = self._configurations()
        self._loaded: list[str] = []
        self._shared: list[InSharedMemory] = []
        self.batch_invariant = all(_is_invariant(config) for config in self._served.values())
        runtimes = sorted({_runtime(config) for config in self._served.values()})
        self.name = f"triton {version} at {self._server.address}, {' and '.join(runtimes) or 'no models'}"

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        """threads: of what a family computes beside its components, by default one."""
        torch.set_num_threads(model.threads or 1)
        return cls(model)

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> "TritonComponent":
        """module: is not called. The component takes no more rows than the server allows."""
        name = triton_name(self._model.id, spec.name)
        config = checked(self._model, spec, self._served.get(spec.name))
        self._loaded.append(name)
        taken, shapes = limited(spec, config.max_batch_size), _shapes(config)
        messages = travel = InMessages(self._server, name, taken, self.device)
        if self._model.triton.shared_memory:
            travel = InSharedMemory(self._server, name, taken, self.device)
            self._shared.append(travel)
        return TritonComponent(taken, shapes, travel, messages, self.device, partial(_mend, self._model, spec))

    def check(self) -> None:
        self._server.check(self._loaded)

    def close(self) -> None:
        for shared in self._shared:
            shared.close()

    def _configurations(self) -> dict[str, Any]:
        """Of this model's components on the server, by their names."""
        try:
            return self._server.configurations(triton_name(self._model.id, ""))
        except (Refused, BackendUnavailable) as error:
            raise ConfigurationError(
                f"the Triton server at {self._server.address} does not tell what it serves: {error}"
            ) from error


def checked(model: ModelSettings, spec: ComponentSpec, config: Any | None) -> Any:
    """What the server serves of a component: config, which is None where that is nothing. Raises ConfigurationError
    that names what differs, and the commands that mend it."""
    name = triton_name(model.id, spec.name)
    fault = f"serves no {name}" if config is None else _misfit(name, spec, config)
    if fault is not None:
        raise ConfigurationError(f"the Triton server at {model.triton.address} {fault}; {_mend(model, spec)}")
    return config


class TritonComponent:
    """A model on the server. shapes: that it takes; without ranges, all that `spec` declares. travel: of its tensors;
    messages take its place where shared memory is refused. advice: how to build a model for other shapes.
    """

    def __init__(
        self,
        spec: ComponentSpec,
        shapes: Shapes,
        travel: Travel,
        messages: InMessages,
        device: torch.device,
        advice: Advice,
    ) -> None:
        self.spec = spec
        self._shapes, self._advice = shapes, advice
        self._travel, self._messages = travel, messages
        self._checks = Checks(spec, device)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raises UnsupportedParameter as well, for shapes that the model was not built for, and RuntimeError for what
        else the server refuses, which is none of the callers' doing."""
        lengths = self._checks.inputs(inputs)
        if self._shapes.ranges and self._shapes.profile(lengths) is None:
            raise unbuilt(self.spec, self._shapes, lengths, self._advice)
        try:
            outputs = self._run(inputs, lengths)
        except Refused as error:
            raise RuntimeError(f"{self.spec.name} failed on the Triton server: {error}") from error
        self._checks.outputs(outputs, lengths)
        return outputs

    def _run(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
        try:
            return self._travel.run(inputs, lengths)
        except SharingRefused as error:
            log.warning("tensors of %s travel in messages from now on: %s", self.spec.name, error)
            self._travel = self._messages
            return self._travel.run(inputs, lengths)


def _need_cuda_shared_memory() -> None:
    try:
        cuda_shared_memory()
    except RuntimeError as error:
        raise ConfigurationError(
            "triton.shared_memory is true, which on a CUDA device needs the package cuda-python; install it, or set it "
            f"to false ({error})"
        ) from None


def _mend(model: ModelSettings, spec: ComponentSpec, asked: Asked | None = None) -> str:
    engine = Engine(model.model_repository, model.id, spec.name)
    runs = behind_triton(torch.device(model.device).type, model.precision)
    built = engine.advice(runs, model.precision, asked)
    return f"{built}, and start the server with --model-repository={model.model_repository}"


def _runtime(config: Any) -> str:
    """What computes a model, as the server tells it."""
    return config.parameters[RUNTIME].string_value or config.backend or config.platform


def _shapes(config: Any) -> Shapes:
    told = config.parameters[SHAPES].string_value
    return Shapes.model_validate_json(told) if told else Shapes()


def _is_invariant(config: Any) -> bool:
    on_cpu = all(group.kind == _KIND_CPU for group in config.instance_group)
    datatypes = [_datatype(tensor.data_type) for tensor in (*config.input, *config.output)]
    return on_cpu and is_invariant(_runtime(config), datatypes)


def _misfit(name: str, spec: ComponentSpec, config: Any) -> str | None:
    """How what the server serves differs from the component; None: not at all."""
    fault = _different("input", spec.inputs, config.input) or _different("output", spec.outputs, config.output)
    if fault:
        return f"serves {name} with {fault}"
    if not config.max_batch_size:
        return f"serves {name} with max_batch_size 0, where rows come in batches"
    if config.HasField("dynamic_batching") and not may_be_joined(spec, _runtime(config)):
        return (
            f"joins requests for {name} into batches, which gives wrong results: it was started without "
            "--disable-auto-complete-config, or its config.pbtxt has dynamic_batching"
        )
    return None


def _different(kind: str, declared: Sequence[TensorSpec], served: Sequence[Any]) -> str | None:
    wanted = {tensor.name: f"{DATATYPES[tensor.dtype]} {dims(tensor)}" for tensor in declared}
    found = {tensor.name: f"{_datatype(tensor.data_type)} {list(tensor.dims)}" for tensor in served}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            return f"{kind} {name} {found.get(name, 'missing')} where {wanted.get(name, 'none')} is wanted"
    return None


def _datatype(number: int) -> str:
    return configs.DataType.Name(number).removeprefix("TYPE_")
