"""Executors of neural components, one file each, and the table of them."""

from importlib import import_module
from typing import TYPE_CHECKING

from serve.cpus import usable_cpus
from serve.settings import ModelSettings

if TYPE_CHECKING:
    from serve.backends.base import Backend

BACKENDS: dict[str, str] = {"torch": "serve.backends.torch:TorchBackend"}
"""`module:class`, named and not imported, so that the processes without a model never load torch. Each class takes
device, precision and threads."""


def load_backend(model: ModelSettings) -> "Backend":
    """The executor that the model's settings ask for. Raises ConfigurationError when the machine cannot run it."""
    module, name = BACKENDS[model.backend].split(":")
    return getattr(import_module(module), name)(model.device, model.precision, model.threads or usable_cpus())
