"""What a model's components run on, as settings of their own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.settings import ModelSettings


def executors(model: "ModelSettings") -> "list[ModelSettings]":
    """The executors that a replica loads: the model's own first, then those of components that run elsewhere."""
    from serve.backends import component_settings  # noqa: PLC0415

    own = model.model_copy(update={"components": {}})
    return [own, *(component_settings(model, name) for name in model.components)]


def on_cuda(own: "ModelSettings") -> bool:
    return own.device.startswith("cuda")


def computes_on_cpu(own: "ModelSettings") -> bool:
    return own.device == "cpu" and own.backend not in ("simulated", "triton")
