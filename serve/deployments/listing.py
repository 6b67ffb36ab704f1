"""What is told of each model that the server has."""

from pathlib import Path

from serve.schema import ModelBody, PlayedDevice
from serve.settings import ModelSettings
from serve.types import ModelFacts


def listed(model: ModelSettings, facts: ModelFacts, created: int) -> ModelBody:
    """created: Unix seconds at which it became ready to serve."""
    return ModelBody.of(
        model.id,
        family=model.family,
        backend=model.backend,
        simulated=_played(model),
        precision=model.precision,
        aliases=model.aliases,
        facts=facts,
        created=created,
    )


def _played(model: ModelSettings) -> PlayedDevice | None:
    """A table of the operator's own is told by its name, not by where it lies."""
    if model.backend != "simulated":
        return None
    return PlayedDevice(timings=Path(model.simulated.timings).name, speed=model.simulated.speed)
