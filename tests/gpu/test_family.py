"""The small FLUX.1 Kontext on a GPU: near what the CPU answers, and each row's bytes the same in any company."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from serve.backends.torch import TorchBackend
from serve.engine.runner import Runner
from serve.families.base import Sample
from serve.families.flux_kontext import FluxKontext, load
from serve.types import EditJob, Pixels
from tests import checkpoints
from tests.gpu import on_a_gpu
from tests.gpu.launches import GRAPH_LAUNCH, calls

pytestmark = on_a_gpu

Result = TypeVar("Result")

BUCKET = 4
STEPS = 6
LEVELS = 2
"""Of 255, that a pixel may differ by between devices in float32: their kernels add in another order, six times over."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.flux_kontext(tmp_path_factory.mktemp("kontext"))


def model(folder: Path, device: str, precision: str, *, cuda_graphs: bool = True) -> tuple[FluxKontext, Runner]:
    backend = TorchBackend(device, precision, threads=4, cuda_graphs=cuda_graphs)
    family = load(str(folder), backend)
    return family, Runner(family, backend, BUCKET)


def job(seed: int, side: int = 64) -> EditJob:
    canvas = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return EditJob(
        request_id=str(seed),
        prompt=f"as in {seed}",
        canvas=canvas,
        references=(),
        mask=None,
        seeds=(seed,),
        steps=STEPS,
        strength=1.0,
        guidance=2.5,
    )


def begun(family: FluxKontext, runner: Runner, one: EditJob) -> Sample:
    (text,) = ended(runner.run([family.encode_text(one.prompt)]))
    (image,) = ended(runner.run([family.encode_image(one.canvas)]))
    return family.begin(one, [text], [image], one.seeds[0])


def ended(results: Sequence[Result | Exception]) -> list[Result]:
    good: list[Result] = []
    for result in results:
        if isinstance(result, Exception):
            raise result
        good.append(result)
    return good


def drawn(family: FluxKontext, runner: Runner, jobs: list[EditJob]) -> list[Pixels]:
    """In batches of all of them together."""
    with torch.inference_mode():
        samples = [begun(family, runner, one) for one in jobs]
        for _ in range(STEPS):
            ended(runner.run([family.step(sample) for sample in samples], [one.request_id for one in jobs]))
        return ended(runner.run([family.decode(sample) for sample in samples]))


@pytest.mark.parametrize("side", [64, 96])
def test_an_edit_is_near_that_of_the_cpu(folder: Path, side: int, monkeypatch: pytest.MonkeyPatch):
    """Convolutions in full precision: torch lets them round products to TF32's 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = model(folder, "cuda:0", "float32"), model(folder, "cpu", "float32")

    (on_gpu,), (on_cpu,) = drawn(*here, [job(1, side)]), drawn(*there, [job(1, side)])

    assert np.abs(on_gpu.astype(int) - on_cpu.astype(int)).max() <= LEVELS


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graphs_draw_the_bytes_that_eager_modules_draw(folder: Path, precision: str):
    jobs = [job(seed) for seed in range(3)]

    graphed = drawn(*model(folder, "cuda:0", precision), jobs)
    eager = drawn(*model(folder, "cuda:0", precision, cuda_graphs=False), jobs)

    assert all(np.array_equal(one, other) for one, other in zip(graphed, eager, strict=True))


def test_every_component_of_the_family_runs_as_a_graph(folder: Path):
    """All but the first call of each, whose shapes are new: text, text, encoder, decoder and six steps."""
    family, runner = model(folder, "cuda:0", "bfloat16")
    drawn(family, runner, [job(1)])
    drawn(family, runner, [job(2)])

    launched = calls(lambda: drawn(family, runner, [job(3)]))

    assert launched[GRAPH_LAUNCH] == 4 + STEPS


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("company", [[2], [2, 3], [4, 2, 3]])
def test_a_rows_bytes_are_the_same_in_any_batch(folder: Path, precision: str, company: list[int]):
    family, runner = model(folder, "cuda:0", precision)
    (alone,) = drawn(family, runner, [job(1)])

    *_, in_company = drawn(family, runner, [*(job(seed) for seed in company), job(1)])

    assert np.array_equal(alone, in_company)
