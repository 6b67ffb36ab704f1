"""The embedded model through the real engine, against the sampler that it was trained with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedded_model.editors import CheckpointEditor
from serve.backends.torch import TorchBackend
from serve.engine.engine import Engine
from serve.errors import ConfigurationError
from serve.families.pixel_edit import PixelEdit, load
from serve.settings import EMBEDDED_CHECKPOINT
from serve.types import EditJob, EditResult, Pixels
from tests import checkpoints, pictures

SIZE = (128, 64)
BUCKET = 4
JOB = EditJob(
    request_id="edit",
    prompt="make it black and white",
    canvas=pictures.photo(SIZE),
    references=(),
    mask=None,
    seeds=(7,),
    steps=4,
    strength=1.0,
    guidance=1.0,
)


@pytest.fixture(scope="module")
def family() -> Iterator[PixelEdit]:
    before = torch.get_num_threads()
    yield load(str(EMBEDDED_CHECKPOINT), TorchBackend("cpu", "float32", threads=1))
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine(family: PixelEdit) -> Iterator[Engine]:
    running = Engine(family, batch_invariant=False, max_batch=BUCKET, max_queued_rows=64, cache_bytes=2**24)
    running.start()
    yield running
    running.drain(30)


def test_an_edit_equals_that_of_the_sampler_it_was_trained_with(engine: Engine):
    picture = Image.fromarray(JOB.canvas)
    for strength in (1.0, 0.5):
        drawn = _edit(engine, replace(JOB, strength=strength)).images[0]
        expected = CheckpointEditor(EMBEDDED_CHECKPOINT, JOB.steps).edit(picture, JOB.prompt, 7, strength)
        # Another order of the same float32 operations: a rounding of half a level may fall to the other side.
        assert _distance(drawn, np.asarray(expected)).max() <= 1


def test_the_latents_of_a_picture_are_lossless(family: PixelEdit):
    sample = family.begin(JOB, [family.encode_text(JOB.prompt)], [family.encode_image(JOB.canvas)], seed=0)
    sample.latents = family.encode_image(JOB.canvas)
    assert np.array_equal(family.decode(sample), JOB.canvas)


def test_a_row_has_the_same_bytes_at_every_index_of_the_bucket(engine: Engine):
    alone = _edit(engine, JOB).images[0]
    others = [replace(JOB, request_id=f"other-{i}", prompt="invert the colours", seeds=(i,)) for i in range(3)]
    for index in range(BUCKET):
        jobs = [*others[:index], JOB, *others[index:]]
        results = [future.result(60) for future in [engine.submit(job) for job in jobs]]
        assert np.array_equal(results[index].images[0], alone)


def test_result_i_of_n_is_the_result_of_seed_plus_i(engine: Engine):
    together = _edit(engine, replace(JOB, seeds=(7, 8, 9)))
    assert np.array_equal(together.images[2], _edit(engine, replace(JOB, seeds=(9,))).images[0])


def test_a_larger_strength_leaves_the_source_further(engine: Engine):
    edited = [_edit(engine, replace(JOB, strength=strength)).images[0] for strength in (0.25, 0.5, 1.0)]
    moved = [_distance(picture, JOB.canvas).mean() for picture in edited]
    assert moved[0] < moved[1] < moved[2]


def test_a_larger_guidance_leaves_the_source_further(engine: Engine):
    job = replace(JOB, prompt="make it darker")
    plain, strong = (_edit(engine, replace(job, guidance=guidance)).images[0] for guidance in (1.0, 1.5))
    assert _distance(strong, JOB.canvas).mean() > _distance(plain, JOB.canvas).mean()


def test_guidance_of_one_or_less_is_off(engine: Engine):
    plain, off = (_edit(engine, replace(JOB, guidance=guidance)).images[0] for guidance in (1.0, 0.0))
    assert np.array_equal(plain, off)


def test_usage_counts_words_and_cells(engine: Engine):
    usage = _edit(engine, replace(JOB, seeds=(1, 2))).usage
    cells = SIZE[0] // 4 * SIZE[1] // 4
    assert (usage.image_tokens, usage.output_tokens) == (cells, 2 * cells)
    assert usage.text_tokens >= 5


def test_weights_of_another_pipeline_are_refused(tmp_path: Path):
    folder = checkpoints.flux_kontext(tmp_path)
    with pytest.raises(ConfigurationError, match="hold a FluxKontextPipeline, not a PixelEditPipeline"):
        load(str(folder), TorchBackend("cpu", "float32", threads=1))


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"no model_index\.json"):
        load(str(tmp_path), TorchBackend("cpu", "float32", threads=1))


def _edit(engine: Engine, job: EditJob) -> EditResult:
    return engine.submit(job).result(60)


def _distance(one: Pixels, other: Pixels) -> Pixels:
    return np.abs(one.astype(np.int16) - other.astype(np.int16)).astype(np.uint8)
