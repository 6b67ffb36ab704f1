"""What `benchmarks.suite` serves: simulated devices, each batched in its own way, and two small models that compute."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.goals import SPEED
from serve.settings import embedded_model

H200, LINEAR = "h200-512px", "linear"
"""Tables of step times: a device that likes batches, and one that gains nothing from them."""
EMBEDDED, SMALL = embedded_model().id, "kontext-small"


@dataclass(frozen=True, slots=True)
class Played:
    """A simulated device, and how the model on it batches."""

    batching: str
    timings: str = H200


PLAYED: dict[str, Played] = {
    "ours": Played("steps"),
    "requests": Played("requests"),
    "single": Played("none"),
    "single-linear": Played("none", LINEAR),
    "ours-linear": Played("steps", LINEAR),
    "ours-calm": Played("steps"),
    "requests-calm": Played("requests"),
    "single-calm": Played("none"),
}
"""Each a device of its own, with a step log; there are two of a kind, to be given different loads or edits."""

WORKLOADS = {
    "mixed": workload.load("mixed"),
    "uniform": workload.load("uniform"),
    EMBEDDED: workload.parse(
        """
name: embedded
description: 8 steps at 512 px without guidance
prompts: [make it black and white, tint it blue, make it look like night]
kinds: [{name: plain, size: 512x512, steps: 8, strength: 1.0, guidance: 1.0}]
""",
        "embedded",
    ),
    SMALL: workload.parse(
        """
name: small
description: 8 steps at 256 px
prompts: [make it black and white, tint it blue, make it look like night]
kinds: [{name: plain, size: 256x256, steps: 8, strength: 1.0, guidance: 2.5}]
""",
        "small",
    ),
}


def simulated(weights: Path, step_log: Callable[[str], Path]) -> list[dict[str, Any]]:
    """All of PLAYED. weights: configurations of FLUX.1 Kontext. step_log: a file for each device."""
    return [
        {
            "id": name,
            "family": "flux_kontext",
            "weights": str(weights),
            "backend": "simulated",
            "simulated": {"timings": played.timings, "speed": SPEED},
            "batching": played.batching,
            "step_log": step_log(name),
            "max_batch": 8,
            "max_queued_rows": 1024,
            "num_cpus": 0.1,
            "threads": 1,
        }
        for name, played in PLAYED.items()
    ]


def computing(weights: Path) -> list[dict[str, Any]]:
    """EMBEDDED and SMALL. weights: a checkpoint of the latter."""
    torch = {"family": "flux_kontext", "weights": str(weights), "max_batch": 8, "threads": 2}
    return [
        {**embedded_model().model_dump(mode="json", exclude_unset=True), "num_cpus": 0.1},
        {"id": SMALL, **torch, "num_cpus": 0.1},
    ]
