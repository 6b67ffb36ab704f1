"""The embedded model through the real engine, against the sampler that it was trained with."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from embedded_model.editors import CheckpointEditor
from serve.backends.torch import TorchBackend
from serve.engine.engine import Engine, EngineOptions
from serve.errors import ConfigurationError
from serve.families.base import Sample
from serve.families.pixel_edit import PixelEdit, load
from serve.settings import EMBEDDED_CHECKPOINT
from serve.types import EditJob, EditResult, Pixels
from tests import checkpoints, pictures
from tests.stages import run_alone, run_as_one_batch

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
    yield loaded(EMBEDDED_CHECKPOINT)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PixelEdit:
    """With random weights, which move every picture."""
    return loaded(checkpoints.pixel_edit(tmp_path_factory.mktemp("pixel_edit")))


@pytest.fixture(scope="module")
def engine(family: PixelEdit) -> Iterator[Engine]:
    running = Engine(family, backend(), EngineOptions(max_batch=BUCKET, cache_bytes=2**24))
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
    text, latents = run_alone(family.encode_text(JOB.prompt)), run_alone(family.encode_image(JOB.canvas))
    sample = family.begin(JOB, [text], [latents], seed=0)
    sample.latents = latents
    assert np.array_equal(run_alone(family.decode(sample)), JOB.canvas)


@pytest.mark.parametrize(("steps", "strength"), [(4, 1.0), (4, 0.5), (3, 0.1), (100, 0.29)])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
def test_a_plan_tells_what_its_row_will_be(small: PixelEdit, steps: int, strength: float, guidance: float):
    job = replace(JOB, steps=steps, strength=strength, guidance=guidance)
    plan, sample = small.plan(job), begun(small, job)
    assert (plan.steps, plan.passes) == (sample.remaining, len(sample.passes))
    assert plan.tokens == small.tokens([run_alone(small.encode_image(job.canvas))])


def test_rows_may_share_a_pass_exactly_when_their_pictures_are_of_one_size(small: PixelEdit):
    wide, tall = pictures.photo((128, 64)), pictures.photo((64, 128))
    others = [JOB, replace(JOB, prompt="another", steps=9, strength=0.3, guidance=1.5, seeds=(1, 2))]
    assert len({small.plan(job).key for job in others}) == 1
    assert small.plan(replace(JOB, canvas=wide)).key != small.plan(replace(JOB, canvas=tall)).key
    assert json.loads(json.dumps(small.plan(JOB).key)) == list(small.plan(JOB).key)


def test_inputs_that_stay_the_same_over_the_steps_are_the_same_tensors(small: PixelEdit):
    sample = begun(small, replace(JOB, guidance=1.5))
    for _ in range(2):
        calls = next(small.step(sample))
        assert all(call.component is small.denoiser for call in calls)
        for call, constant in zip(calls, sample.passes, strict=True):
            assert all(call.inputs[name] is tensor for name, tensor in constant.items())
        run_alone(small.step(sample))


@pytest.mark.parametrize("index", range(BUCKET))
def test_a_row_in_a_mixed_batch_equals_one_among_its_copies(small: PixelEdit, index: int):
    job = replace(JOB, steps=3)
    crowd = [replace(JOB, prompt=f"as in {i}", steps=4 + i, strength=0.9, seeds=(i,)) for i in range(3)]
    mixed, alone = [begun(small, other) for other in (*crowd[:index], job, *crowd[index:])], begun(small, job)
    for _ in range(job.steps):
        run_as_one_batch([small.step(sample) for sample in mixed])
        run_alone(small.step(alone), copies=BUCKET)
    assert torch.equal(mixed[index].latents, alone.latents)


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


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("make it red", None),
        ("Make it dark r", None),  # the space that every prompt begins with, 14 letters, the end: 16 tokens
        ("Make it dark red", "Make it dark r"),
        ("make it dark ÄÖÜ", "make it dark Ä"),
        ("make it bluÄÖÜÄÖÜ", "make it bluÄÖ"),  # the last token read is half of the last letter
    ],
)
def test_a_prompt_is_read_up_to_the_models_length(small: PixelEdit, prompt: str, read: str | None):
    assert run_alone(small.encode_text(prompt)).cut_to == read


@pytest.mark.parametrize("prompt", ["make it dark red and blue", "make it bluÄÖÜÄÖÜ"])
def test_the_part_of_a_prompt_that_was_read_draws_the_same_bytes(small: PixelEdit, prompt: str):
    long = _edit_with(small, replace(JOB, prompt=prompt))
    assert long.revised_prompt is not None
    assert prompt.startswith(long.revised_prompt)
    short = _edit_with(small, replace(JOB, prompt=long.revised_prompt))
    other = _edit_with(small, replace(JOB, prompt=long.revised_prompt[:-2]))
    assert np.array_equal(long.images[0], short.images[0])
    assert not np.array_equal(long.images[0], other.images[0])
    assert short.revised_prompt is None


def test_the_embedded_model_tells_what_it_read_of_a_long_prompt(family: PixelEdit):
    prompt = "make it black and white, " * 20
    read = run_alone(family.encode_text(prompt)).cut_to
    assert read is not None
    assert len("make it black and white, ") < len(read) < len(prompt)
    assert prompt.startswith(read)
    assert run_alone(family.encode_text("make it black and white")).cut_to is None


# Checkpoints


def test_weights_of_another_pipeline_are_refused(tmp_path: Path):
    folder = checkpoints.flux_kontext(tmp_path)
    with pytest.raises(ConfigurationError, match="hold a FluxKontextPipeline, not a PixelEditPipeline"):
        loaded(folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"no model_index\.json"):
        loaded(tmp_path)


FILES = [
    "model_index.json",
    "denoiser/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "denoiser/diffusion_pytorch_model.safetensors",
    "tokenizer/tokenizer.json",
]
DAMAGE = [(name, damage) for name in FILES for damage in ("cut off", "empty", "missing")]


@pytest.mark.parametrize(("name", "damage"), [*DAMAGE, ("tokenizer/tokenizer_config.json", "cut off")])
def test_a_damaged_file_stops_the_start_with_one_sentence_that_names_its_part(tmp_path: Path, name: str, damage: str):
    file = checkpoints.pixel_edit(tmp_path) / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if damage == "cut off" else 0])
    with pytest.raises(ConfigurationError, match=rf"^[^\n]*{Path(name).parent.name}[^\n]*$"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("part", "lost"), [("denoiser", "inlet.bias"), ("text_encoder", "encoder.final_layer_norm.weight")]
)
def test_a_weight_that_is_missing_is_named(tmp_path: Path, part: str, lost: str):
    (file,) = (checkpoints.pixel_edit(tmp_path) / part).glob("*.safetensors")
    weights = load_file(file)
    del weights[lost]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=rf"{part} lacks 1 weights, the first is {lost}$"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("denoiser/config.json", {"conditioning_dim": 24}, "denoiser cannot be loaded: .* expected shape"),
        ("denoiser/config.json", {"blocks_per_level": 2}, "denoiser lacks"),
        ("denoiser/config.json", {"channels": 8}, "denoiser cannot be loaded"),
        ("denoiser/config.json", {"patch_size": "four"}, "cannot be loaded"),
        ("text_encoder/config.json", {"d_ff": 41}, r"text_encoder: encoder.block.* has shape \(37, 32\); its config"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "use_karras_sigmas: True is not served"),
        ("model_index.json", {"text_encoder": ["transformers", "NoSuchEncoder"]}, "NoSuchEncoder"),
        ("model_index.json", {"text_encoder": []}, "cannot be loaded"),
    ],
)
def test_parts_that_do_not_fit_stop_the_start(tmp_path: Path, file: str, changes: dict[str, Any], message: str):
    path = checkpoints.pixel_edit(tmp_path) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigurationError, match=message):
        loaded(tmp_path)


def test_an_encoder_of_another_width_than_the_denoiser_reads_stops_the_start(tmp_path: Path):
    folder, wider = checkpoints.pixel_edit(tmp_path / "it"), T5Config(vocab_size=300, d_model=48, num_layers=1)
    T5EncoderModel(wider).save_pretrained(folder / "text_encoder")
    with pytest.raises(ConfigurationError, match="text_encoder answers vectors of 48; its denoiser reads 32"):
        loaded(folder)


def test_a_configuration_that_lacks_a_key_names_it(tmp_path: Path):
    path = checkpoints.pixel_edit(tmp_path) / "denoiser" / "config.json"
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot be loaded: 'patch_size' is missing"):
        loaded(tmp_path)


def loaded(folder: Path) -> PixelEdit:
    return load(str(folder), backend())


def backend() -> TorchBackend:
    return TorchBackend("cpu", "float32", threads=1)


def begun(family: PixelEdit, job: EditJob) -> Sample:
    texts = [run_alone(family.encode_text(prompt)) for prompt in family.text_prompts(job)]
    return family.begin(job, texts, [run_alone(family.encode_image(job.canvas))], job.seeds[0])


def _edit_with(family: PixelEdit, job: EditJob) -> EditResult:
    engine = Engine(family, backend(), EngineOptions(max_batch=1, cache_bytes=0))
    engine.start()
    try:
        return _edit(engine, job)
    finally:
        engine.drain(30)


def _edit(engine: Engine, job: EditJob) -> EditResult:
    return engine.submit(job).result(60)


def _distance(one: Pixels, other: Pixels) -> Pixels:
    return np.abs(one.astype(np.int16) - other.astype(np.int16)).astype(np.uint8)
