"""What is measured in this process, without a server: bytes in any company, the engine's own time, and offline speed.

Each figure runs in a process of its own: `python -m benchmarks.engine_figures FIGURE`, which prints one number a line.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks import checkpoints
from benchmarks.pictures import PictureKey, made
from serve.backends import load_backend
from serve.backends.base import Component
from serve.engine.engine import Engine, EngineOptions
from serve.engine.load import load_engine
from serve.engine.runner import Runner
from serve.families import load_family
from serve.families.base import Family, TextEncoding
from serve.settings import ModelSettings, embedded_model
from serve.types import ComponentSpec, EditJob

SEED = 5
STEPS_TIMED = 400
OFFLINE_JOBS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=("equal-bytes", "own-ms", "offline-per-s"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of the offline measurement")
    parser.add_argument("--times", type=int, default=1, help="measure it so often (default: 1)")
    arguments = parser.parse_args()
    figures: dict[str, Callable[[Path], float]] = {
        "equal-bytes": equal_bytes_percent,
        "own-ms": own_ms,
        "offline-per-s": lambda _: offline_per_s(arguments.seconds),
    }
    for _ in range(arguments.times):
        with tempfile.TemporaryDirectory() as folder:
            print(figures[arguments.figure](Path(folder)))


def equal_bytes_percent(folder: Path) -> float:
    """Edits whose picture is the same alone and among others, with mixed parameters: on the simulated device, PyTorch
    in float32 and in bfloat16, and the embedded model's own backend."""
    models = (
        _model("simulated", checkpoints.flux_kontext_configurations(folder / "real"), simulated={"timings": "zero"}),
        _model("torch", checkpoints.flux_kontext(folder / "small")),
        _model("torch", checkpoints.flux_kontext(folder / "half"), precision="bfloat16"),
        embedded_model().model_copy(update={"max_batch": 4}),
    )
    found = [equal for model in models for equal in _equal(model, folder / "cache")]
    return 100 * sum(found) / len(found)


def own_ms(folder: Path) -> float:
    """Between two calls of the denoiser with 8 rows of 512 px, the median of a run; its device takes no time."""
    weights = checkpoints.flux_kontext_configurations(folder / "real")
    model = _model("simulated", weights, simulated={"timings": "zero"}, max_batch=8)
    backend = load_backend(model)
    family = load_family(model, backend)
    family.denoiser = timed = _Timed(family.denoiser)
    engine = Engine(family, backend, EngineOptions(max_batch=8))
    futures = [engine.submit(_job(number, 512, steps=STEPS_TIMED)) for number in range(8)]
    engine.start()
    for future in futures:
        future.result()
    stats = engine.stats()
    engine.drain(5)
    assert stats.row_steps >= 7.5 * stats.steps, "the rows did not run together"
    return 1e3 * statistics.median(timed.between_s)


def offline_per_s(seconds: float) -> float:
    """Pictures of 512 px, 8 steps, of the embedded model, one after the other: no queue, no HTTP."""
    model = embedded_model()
    backend = load_backend(model)
    family = load_family(model, backend)
    runner = Runner(family, backend, 1)
    jobs = (_job(number, 512, steps=8) for number in range(OFFLINE_JOBS))
    return rate_of(lambda job: _draw(family, runner, [job]), jobs, seconds)


def rate_of(
    work: Callable[[EditJob], None],
    jobs: Iterable[EditJob],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Jobs a second, one after the other and all over again, for so long. They are made before the clock runs, since a
    client makes them where there is one; the first warms up."""
    made_jobs = list(jobs)
    work(made_jobs[0])
    began_s, done = clock(), 0
    while clock() - began_s < seconds:
        work(made_jobs[done % len(made_jobs)])
        done += 1
    return done / (clock() - began_s)


class _Timed:
    """A component that notes the seconds from the end of each call to the beginning of the next."""

    def __init__(self, component: Component) -> None:
        self.spec: ComponentSpec = component.spec
        self.between_s: list[float] = []
        self._component = component
        self._ended_s: float | None = None

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._ended_s is not None:
            self.between_s.append(time.perf_counter() - self._ended_s)
        outputs = self._component(inputs)
        self._ended_s = time.perf_counter()
        return outputs


def _model(backend: Literal["torch", "simulated"], weights: Path, **more: Any) -> ModelSettings:
    fields: dict[str, Any] = {"max_batch": 4, "threads": 1, "profile_s": 0, **more}
    return ModelSettings(id="measured", family="flux_kontext", weights=str(weights), backend=backend, **fields)


def _equal(model: ModelSettings, cache_folder: Path) -> list[bool]:
    """For each job whether it came out alike: alone, and submitted with all others."""
    jobs = [
        _job(number, 64 if model.family == "flux_kontext" else 256, steps, strength, guidance, rows=1 + number % 2)
        for number, (steps, strength, guidance) in enumerate(
            [(2, 1.0, 1.0), (5, 0.6, 2.5), (9, 1.0, 4.0), (3, 0.4, 1.0), (12, 0.9, 3.0), (6, 1.0, 1.0)]
        )
    ]
    engine = load_engine(model.model_copy(update={"cache_bytes": 0}), cache_folder)
    engine.start()
    try:
        alone = [engine.submit(job).result().images for job in jobs]
        together = [future.result().images for future in [engine.submit(job) for job in jobs]]
    finally:
        engine.drain(5)
    return [
        np.array_equal(one, other)
        for pair in zip(alone, together, strict=True)
        for one, other in zip(*pair, strict=True)
    ]


def _job(number: int, side: int, steps: int, strength: float = 1.0, guidance: float = 1.0, rows: int = 1) -> EditJob:
    pixels = np.asarray(made(PictureKey(side, side, max(0, number)), SEED))
    prompt = ("tint it blue", "make it black and white", "make it look like night")[number % 3]
    seeds = tuple(range(SEED + number, SEED + number + rows))
    return EditJob(f"r{number}", prompt, pixels, (), None, seeds, steps, strength, guidance)


@torch.inference_mode()
def _draw(family: Family, runner: Runner, jobs: Sequence[EditJob]) -> None:
    """From the prompts to the pictures."""
    samples = [family.begin(job, *_encoded(family, runner, job), job.seeds[0]) for job in jobs]
    while samples[0].remaining:
        assert not any(runner.run([family.step(sample) for sample in samples], range(len(samples))))
    runner.run([family.decode(sample) for sample in samples])


def _encoded(family: Family, runner: Runner, job: EditJob) -> tuple[list[TextEncoding], list[torch.Tensor]]:
    texts = runner.run([family.encode_text(prompt) for prompt in family.text_prompts(job)])
    images = runner.run([family.encode_image(job.canvas)])
    return (
        [text for text in texts if isinstance(text, TextEncoding)],
        [image for image in images if isinstance(image, torch.Tensor)],
    )


if __name__ == "__main__":
    main()
