"""From a model's settings to an engine that is ready to start: backend, weights, and what they cost here."""

import hashlib
import json
import logging
import math
from pathlib import Path

from serve.backends import load_backend
from serve.backends.base import Backend
from serve.codec import draw_size
from serve.engine.engine import Engine, EngineOptions
from serve.engine.measure import measure
from serve.engine.profile import Profile
from serve.families import facts_of, load_family
from serve.families.base import Family
from serve.settings import ModelSettings
from serve.types import Size

log = logging.getLogger(__name__)

SIZES: tuple[Size, ...] = ((1024, 1024), (512, 512), (256, 256))
"""That the API names, the default first."""


def load_engine(model: ModelSettings, cache_folder: Path, stuck_after_s: float = math.inf) -> Engine:
    """Load the model and learn its costs, from the folder where an earlier start on such a device has left them.
    stuck_after_s: of `EngineOptions`.

    Raises ConfigurationError when the machine or the weights cannot run it.
    """
    backend = load_backend(model)
    family = load_family(model, backend)
    options = EngineOptions(
        max_batch=model.max_batch,
        max_queued_rows=model.max_queued_rows,
        cache_bytes=model.cache_bytes,
        batching=model.batching,
        memory_share=model.memory_share,
        step_log=model.step_log,
        stuck_after_s=stuck_after_s,
    )
    return Engine(family, backend, options, _profile(model, family, backend, cache_folder))


def _profile(model: ModelSettings, family: Family, backend: Backend, cache_folder: Path) -> Profile:
    profile = Profile(model.max_batch, fixed=not backend.batch_invariant)
    path = cache_folder / "profiles" / f"{_identity(model, backend)}.json"
    if model.profile_s and not profile.load(path):
        sizes = dict.fromkeys(draw_size(size, facts_of(model)) for size in SIZES)
        measure(family, backend, profile, tuple(sizes), model.profile_s)
        profile.save(path)
    for key in profile.measured_keys():
        log.info("%s: batches of %d at %s", model.id, profile.knee(key), key)
    return profile


def _identity(model: ModelSettings, backend: Backend) -> str:
    """Whatever changes what is measured."""
    parts = (model.family, model.weights, model.precision, model.max_batch, model.threads, backend.name)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
