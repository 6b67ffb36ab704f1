"""Small models of both families, and their compiled components, built once for all tests that run them."""

from pathlib import Path

from build_engines.build import Built, Wish, build_model
from serve.settings import ModelSettings
from tests import checkpoints

MAKERS = {"flux_kontext": checkpoints.flux_kontext, "pixel_edit": checkpoints.pixel_edit}
SIZES = ((512, 512), (768, 512))


def small_model(family: str, folder: Path, **settings: object) -> ModelSettings:
    """With random weights, and a model repository of its own, in the folder."""
    weights = folder / family
    if not weights.exists():
        MAKERS[family](weights)
    return ModelSettings.model_validate(
        {
            "id": f"small-{family}",
            "family": family,
            "weights": str(weights),
            "model_repository": folder / "model_repository",
            "threads": 1,
            **settings,
        }
    )


def build(model: ModelSettings, wish: Wish | None = None) -> dict[str, Built]:
    """By component."""
    built = build_model(model, wish or Wish(), lambda component, doing, share: None)
    return {one.component: one for one in built}
