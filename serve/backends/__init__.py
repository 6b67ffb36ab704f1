"""Executors of neural components, one file each, and the table of them."""

from importlib import import_module
from typing import TYPE_CHECKING

from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.backends.base import Backend
    from serve.settings import ModelSettings

BACKENDS: dict[str, str] = {
    "torch": "serve.backends.torch:TorchBackend",
    "onnxruntime": "serve.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "serve.backends.openvino:OpenVinoBackend",
    "tensorrt": "serve.backends.tensorrt:TensorRtBackend",
    "triton": "serve.backends.triton:TritonBackend",
    "simulated": "serve.backends.simulated:SimulatedBackend",
}
"""`module:class`, named and not imported, so that the processes without a model never load torch. Each class has a
class method `from_settings` that makes it from a model's settings."""


def load_backend(model: "ModelSettings") -> "Backend":
    """The executor that the model's settings ask for. Raises ConfigurationError when the machine cannot run it."""
    if not model.components:
        return _executor(model)
    from serve.backends.mixed import MixedBackend  # noqa: PLC0415  # It loads torch.

    others = {name: _executor(component_settings(model, name)) for name in model.components}
    return MixedBackend(_executor(model), others)


def component_settings(model: "ModelSettings", component: str) -> "ModelSettings":
    """The model's settings as they are for one component."""
    asked = model.components.get(component)
    changes = {} if asked is None else asked.model_dump(exclude_none=True)
    return model.model_copy(update={**changes, "components": {}})


def _executor(model: "ModelSettings") -> "Backend":
    """Raises ConfigurationError, also where what the backend needs is not installed."""
    module, name = BACKENDS[model.backend].split(":")
    try:
        backend = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"model {model.id}: the backend {model.backend} needs {error.name}, which is not installed"
        ) from None
    return backend.from_settings(model)
