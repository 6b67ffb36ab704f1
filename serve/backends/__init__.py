"""Executors of neural components, one file each, and the table of them."""

from importlib import import_module
from typing import TYPE_CHECKING

from serve.settings import ModelSettings

if TYPE_CHECKING:
    from serve.backends.base import Backend

BACKENDS: dict[str, str] = {
    "torch": "serve.backends.torch:TorchBackend",
    "simulated": "serve.backends.simulated:SimulatedBackend",
}
"""`module:class`, named and not imported, so that the processes without a model never load torch. Each class has a
class method `from_settings` that makes it from a model's settings."""


def load_backend(model: ModelSettings) -> "Backend":
    """The executor that the model's settings ask for. Raises ConfigurationError when the machine cannot run it."""
    module, name = BACKENDS[model.backend].split(":")
    return getattr(import_module(module), name).from_settings(model)
