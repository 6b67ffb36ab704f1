"""A model repository for Triton: the components of a model, built for its Python backend."""

from build_engines.build import Wish, build_model
from build_engines.parts import Part, parts_of
from serve.families.base import Family
from serve.settings import ModelSettings


def add_model(model: ModelSettings) -> tuple[Family, dict[str, Part]]:
    """Build all components of a model into its repository, for the Python backend. Answers them by their names."""
    wish = Wish(backend="onnxruntime", python=True)
    build_model(model, wish, lambda component, doing, share: None)
    return parts_of(model, model.precision)
