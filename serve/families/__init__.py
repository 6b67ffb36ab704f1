"""The model families: a table. A new family is one file here and one row in `FAMILIES`."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from serve.errors import ConfigurationError
from serve.types import ModelFacts

if TYPE_CHECKING:
    from serve.backends.base import Backend
    from serve.families.base import Family
    from serve.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class FamilyEntry:
    """loader: `module:function` that takes the weights' folder or hub id and a backend, and answers the `Family`.

    It is named, not imported, so that the processes without a model never load torch. components: the names of those
    that it loads. hub: whether the weights may also be a hub id.
    """

    loader: str
    facts: ModelFacts
    components: tuple[str, ...]
    hub: bool = False


FAMILIES: dict[str, FamilyEntry] = {
    "flux_kontext": FamilyEntry(
        "serve.families.flux_kontext:load",
        ModelFacts(
            default_steps=28,
            default_strength=1.0,
            default_guidance=2.5,
            has_guidance=True,
            max_images=10,
            reference_pixels=1024 * 1024,
            draw_min=512,
            draw_max=1568,
            multiple=16,
        ),
        ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "denoiser"),
        hub=True,
    ),
    "flux_kontext_mini": FamilyEntry(
        "serve.families.flux_kontext:load",
        ModelFacts(
            default_steps=8,
            default_strength=1.0,
            default_guidance=1.0,
            has_guidance=True,
            max_images=2,
            reference_pixels=512 * 512,
            draw_min=256,
            draw_max=1024,
            multiple=16,
        ),
        ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "denoiser"),
    ),
    "pixel_edit": FamilyEntry(
        "serve.families.pixel_edit:load",
        ModelFacts(
            default_steps=8,
            default_strength=1.0,
            default_guidance=1.0,
            has_guidance=True,
            max_images=1,
            reference_pixels=0,
            draw_min=256,
            draw_max=1536,
            multiple=16,
        ),
        ("text_encoder", "denoiser"),
    ),
}


def facts_of(model: "ModelSettings") -> ModelFacts:
    """The family's facts with the defaults that the configuration sets. Raises ConfigurationError."""
    check_components(model, model.components)
    facts = _entry(model).facts
    return replace(
        facts,
        default_steps=facts.default_steps if model.num_inference_steps is None else model.num_inference_steps,
        default_strength=facts.default_strength if model.strength is None else model.strength,
        default_guidance=facts.default_guidance if model.guidance_scale is None else model.guidance_scale,
    )


def check_components(model: "ModelSettings", names: Iterable[str]) -> None:
    """Raises ConfigurationError where the model has no component of such a name."""
    known = _entry(model).components
    for name in names:
        if name not in known:
            raise ConfigurationError(f"model {model.id}: component {name!r} is none of {', '.join(known)}")


def components_of(model: "ModelSettings") -> tuple[str, ...]:
    """The names of the model's components. Raises ConfigurationError."""
    return _entry(model).components


def takes_hub_ids(model: "ModelSettings") -> bool:
    """Whether the model's weights may be a hub id, which a start downloads. Raises ConfigurationError."""
    return _entry(model).hub


def load_family(model: "ModelSettings", backend: "Backend") -> "Family":
    """Load the model's weights into `backend`. Raises ConfigurationError when the weights cannot be had."""
    module, function = _entry(model).loader.split(":")
    return getattr(import_module(module), function)(model.weights, backend)


def _entry(model: "ModelSettings") -> FamilyEntry:
    if model.family not in FAMILIES:
        raise ConfigurationError(f"model {model.id}: family {model.family!r} is none of {', '.join(FAMILIES)}")
    return FAMILIES[model.family]
