"""FLUX.1 Kontext against diffusers' own pipelines, run unmodified on the same small checkpoint.

Equality is of bits, at batch one on the CPU, in float32 and bfloat16. Two settings of the oracle are the backend's:
convolutions run channels-last and weights are aligned in memory, because CPU kernels round differently otherwise.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxKontextInpaintPipeline, FluxKontextPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from serve.backends.torch import TorchBackend
from serve.errors import ConfigurationError
from serve.families import load_family
from serve.families.base import Sample
from serve.families.flux_kontext import FluxKontext, load, reference_offsets
from serve.settings import ModelSettings
from serve.types import EditJob, Pixels
from tests import checkpoints
from tests.stages import run_alone, run_as_one_batch

PRECISIONS = ("float32", "bfloat16")
WHOLE = (64, 64)
BUCKET = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.flux_kontext(tmp_path_factory.mktemp("kontext"))


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def family(folder: Path, precision: str) -> FluxKontext:
    return load(str(folder), TorchBackend("cpu", precision, threads=1))


@pytest.fixture(scope="module")
def float_family(folder: Path) -> FluxKontext:
    return load(str(folder), TorchBackend("cpu", "float32", threads=1))


@pytest.fixture(scope="module")
def kontext(folder: Path, precision: str) -> DiffusionPipeline:
    return _oracle(FluxKontextPipeline, folder, precision)


@pytest.fixture(scope="module")
def inpaint(folder: Path, precision: str) -> DiffusionPipeline:
    return _oracle(FluxKontextInpaintPipeline, folder, precision)


@pytest.mark.parametrize(
    ("steps", "guidance", "size", "seed"),
    [(1, 2.5, (64, 64), 0), (4, 1.0, (64, 64), 7), (7, 4.0, (96, 48), 2**64 - 1), (3, 0.0, (48, 80), 11)],
)
def test_an_edit_equals_the_kontext_pipeline_bit_for_bit(
    family: FluxKontext, kontext: DiffusionPipeline, steps: int, guidance: float, size: tuple[int, int], seed: int
):
    job = _job(size=size, steps=steps, guidance=guidance)

    sample = _edit(family, job, seed)

    _assert_equal(sample, family, _run(kontext, job, seed))


@pytest.mark.parametrize(("steps", "strength", "size"), [(4, 0.5, (64, 64)), (5, 0.2, (96, 48)), (10, 0.7, (64, 64))])
def test_a_strength_below_one_equals_the_inpaint_pipeline_under_a_white_mask(
    family: FluxKontext, inpaint: DiffusionPipeline, steps: int, strength: float, size: tuple[int, int]
):
    job = _job(size=size, steps=steps, strength=strength)
    white = np.full(job.canvas.shape[:2], 255, dtype=np.uint8)

    sample = _edit(family, job, seed=3)

    _assert_equal(sample, family, _run(inpaint, replace(job, mask=white), seed=3, strength=strength))


@pytest.mark.parametrize(("steps", "strength", "size"), [(4, 1.0, (64, 64)), (6, 0.5, (96, 48))])
def test_a_masked_edit_equals_the_inpaint_pipeline(
    family: FluxKontext, inpaint: DiffusionPipeline, steps: int, strength: float, size: tuple[int, int]
):
    """The mask's edges lie on latent cells, where the pipeline's nearest pixel and any pixel of the cell agree."""
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[8:32, 16:40] = 255
    job = _job(size=size, steps=steps, strength=strength, mask=mask)

    sample = _edit(family, job, seed=5)

    _assert_equal(sample, family, _run(inpaint, job, seed=5, strength=strength))


def test_the_pictures_latents_equal_what_the_pipeline_reads(family: FluxKontext, kontext: DiffusionPipeline):
    pipeline: Any = kontext
    canvas = _picture((96, 48), seed=4)
    processed = pipeline.image_processor.preprocess(Image.fromarray(canvas)).to(pipeline.vae.dtype)

    expected = pipeline._encode_vae_image(processed, generator=None)

    assert torch.equal(run_alone(family.encode_image(canvas)), expected)


def test_each_step_is_visible_in_the_latents(float_family: FluxKontext):
    sample = _begin(float_family, _job(steps=4), seed=0)
    while sample.remaining:
        before = sample.latents
        run_alone(float_family.step(sample))
        assert (sample.latents - before).abs().mean() > 0.01


def test_the_last_steps_estimate_is_where_its_line_ends(float_family: FluxKontext):
    sample = _begin(float_family, _job(steps=4), seed=0)
    apart: list[float] = []
    while sample.remaining:
        run_alone(float_family.step(sample))
        estimate = sample.estimate
        assert estimate is not None
        apart.append(float((sample.latents - estimate()).abs().max()))
    assert apart[-1] < 1e-5
    assert apart[0] > 100 * apart[-1]


def test_a_preview_is_the_estimate_as_the_pipelines_autoencoder_shows_it_at_half_the_size(
    family: FluxKontext, kontext: DiffusionPipeline
):
    pipeline: Any = kontext
    sample = _begin(family, _job(size=(96, 64), steps=2), seed=0)
    run_alone(family.step(sample))

    assert sample.estimate is not None
    latents = pipeline._unpack_latents(sample.estimate(), 64, 96, pipeline.vae_scale_factor)
    small = functional.interpolate(latents, scale_factor=0.5, mode="area")
    scaled = small / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
    with torch.inference_mode():
        decoded = pipeline.vae.decode(scaled, return_dict=False)[0]
    (expected,) = pipeline.image_processor.postprocess(decoded, output_type="np")

    preview = run_alone(family.preview(sample))
    assert preview.shape == (32, 48, 3)
    np.testing.assert_allclose(preview, expected * 255, atol=0.6)


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "another"},
        {"guidance": 3.0},
        {"canvas": np.zeros((64, 64, 3), dtype=np.uint8)},
        {"steps": 5},
        {"strength": 0.5},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_field_of_the_job_reaches_the_result(float_family: FluxKontext, changed: dict[str, Any]):
    job = _job(steps=4)

    plain, other = _edit(float_family, job, seed=0), _edit(float_family, replace(job, **changed), seed=0)

    assert (plain.latents - other.latents).abs().mean() > 1e-4


def test_every_reference_reaches_the_result_and_its_order_matters(float_family: FluxKontext):
    first, second = _picture((64, 32), seed=1), _picture((64, 32), seed=2)
    stacks = ((), (first,), (second,), (first, second), (second, first), (first, second, first))

    results = [_edit(float_family, _job(references=stack), seed=0).latents for stack in stacks]

    for index, result in enumerate(results):
        assert all((result - other).abs().mean() > 1e-4 for other in results[:index])


def test_the_tokens_of_ten_references_never_share_a_position():
    grids = [(4, 4), (2, 4), (4, 2), (4, 4), (1, 7), (7, 1), (3, 3), (4, 4), (2, 2), (5, 4)]

    taken = [
        (top + row, left + column)
        for (top, left), (rows, columns) in zip(reference_offsets(grids), grids, strict=True)
        for row in range(rows)
        for column in range(columns)
    ]

    assert len(set(taken)) == len(taken)
    assert taken[0] == (0, 0)


@pytest.mark.parametrize("index", range(BUCKET))
def test_a_row_has_the_same_bytes_at_every_index_whatever_its_neighbours(family: FluxKontext, index: int):
    job = _job(steps=4, guidance=2.0)
    crowd = [
        _job(prompt="a", steps=6, guidance=9.0, canvas=_picture(WHOLE, seed=20)),
        _job(prompt="much longer text", steps=5, strength=0.8, canvas=_picture(WHOLE, seed=21)),
        _job(prompt="c", steps=9, mask=_half_mask(), canvas=_picture(WHOLE, seed=22)),
    ]

    alone = [_begin(family, job, seed=1) for _ in range(BUCKET)]
    neighbours = [_begin(family, other, seed=30 + i) for i, other in enumerate(crowd)]
    mixed = [*neighbours[:index], _begin(family, job, seed=1), *neighbours[index:]]
    for _ in range(job.steps):
        run_as_one_batch([family.step(sample) for sample in alone])
        run_as_one_batch([family.step(sample) for sample in mixed])

    assert torch.equal(mixed[index].latents, alone[0].latents)
    assert np.array_equal(run_alone(family.decode(mixed[index])), run_alone(family.decode(alone[0])))


def test_rows_with_unequal_shapes_have_unequal_keys(float_family: FluxKontext):
    """Two pictures of equal area lie at different positions, so they may not share a pass either."""
    wide, tall = _picture((64, 32), seed=1), _picture((32, 64), seed=1)
    jobs = [_job(), _job(size=(96, 48)), _job(references=(wide,)), _job(references=(tall,))]

    keys = [float_family.plan(job).key for job in jobs]
    twin = float_family.plan(_job(prompt="b", steps=9, strength=0.3, mask=_half_mask())).key

    assert len(set(keys)) == len(keys)
    assert twin == keys[0]


def test_a_plan_tells_what_its_row_will_be(float_family: FluxKontext):
    reference = _picture((64, 32), seed=1)
    for job in (_job(), _job(steps=10, strength=0.7), _job(size=(96, 48), references=(reference, reference), steps=1)):
        plan, sample = float_family.plan(job), _begin(float_family, job, seed=0)
        (inputs,) = sample.passes
        assert (plan.steps, plan.passes) == (sample.remaining, len(sample.passes))
        assert plan.tokens == inputs["rotary"].shape[1]


def test_inputs_that_stay_the_same_over_the_steps_are_the_same_tensors(float_family: FluxKontext):
    sample = _begin(float_family, _job(), seed=0)
    for _ in range(2):
        (call,) = next(float_family.step(sample))
        assert call.component is float_family.denoiser
        assert all(call.inputs[name] is tensor for name, tensor in sample.passes[0].items())
        run_alone(float_family.step(sample))


def test_rows_of_one_arrangement_share_their_rotary_embedding(float_family: FluxKontext):
    first, second = (_begin(float_family, _job(prompt=prompt), seed=0) for prompt in "ab")
    assert first.passes[0]["rotary"] is second.passes[0]["rotary"]


def test_black_under_the_mask_keeps_the_sources_latents_and_one_grey_pixel_opens_a_cell(float_family: FluxKontext):
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[19, 37] = 1
    job = _job(mask=mask)

    result = _unpacked(_edit(float_family, job, seed=0).latents)

    changed = (result != run_alone(float_family.encode_image(job.canvas))).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[19 // 8, 37 // 8]]


def test_tokens_are_counted_as_the_model_reads_them(float_family: FluxKontext):
    images = [run_alone(float_family.encode_image(_picture(size, seed=0))) for size in (WHOLE, (96, 48))]

    assert float_family.tokens(images) == (4 * 4) + (6 * 3)
    assert run_alone(float_family.encode_text("red")).tokens == len(["\u2581", "r", "e", "d", "</s>"])
    assert run_alone(float_family.encode_text("x" * 500)).tokens == checkpoints.TEXT_TOKENS


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("red", None),
        ("x" * 14, None),  # a mark before the word and one at the end: 16 tokens
        ("x" * 15, "x" * 14),
        ("a b c d e f g", None),  # two tokens a word
        ("a b c d e f g hijkl", "a b c d e f g h"),  # the last token read is the mark before the last word
    ],
)
def test_a_prompt_is_read_up_to_t5s_length(float_family: FluxKontext, prompt: str, read: str | None):
    assert run_alone(float_family.encode_text(prompt)).cut_to == read


@pytest.mark.parametrize("prompt", ["make it red and blue and green", "x" * 500, "à la carte, s'il vous plaît"])
def test_the_part_of_a_prompt_that_was_read_draws_the_same_bytes(float_family: FluxKontext, prompt: str):
    read = run_alone(float_family.encode_text(prompt)).cut_to
    assert read is not None
    assert prompt.startswith(read)

    long, short, other = (_edit(float_family, _job(prompt=text), seed=0).latents for text in (prompt, read, read[:-2]))

    assert torch.equal(long, short)
    assert not torch.equal(long, other)
    assert run_alone(float_family.encode_text(read)).cut_to is None


def test_a_picture_that_is_no_multiple_of_a_token_is_refused(float_family: FluxKontext):
    with pytest.raises(ValueError, match="72x64 pixels cannot be encoded; sides are multiples of 16"):
        run_alone(float_family.encode_image(_picture((72, 64), seed=0)))


def test_the_settings_load_the_family(folder: Path):
    model = ModelSettings(id="kontext", family="flux_kontext", weights=str(folder))

    family = load_family(model, TorchBackend("cpu", "float32", threads=1))

    assert isinstance(family, FluxKontext)
    assert run_alone(family.decode(_edit(family, _job(steps=1), seed=0))).shape == (64, 64, 3)


def test_a_missing_folder_stops_the_start_with_one_sentence(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"weights '.*/nowhere' are neither a folder nor a hub id$"):
        load(str(tmp_path / "nowhere"), TorchBackend("cpu", "float32", threads=1))


def test_another_pipelines_weights_stop_the_start(tmp_path: Path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "_diffusers_version": "0.42.1"}')

    with pytest.raises(ConfigurationError, match="of a FluxPipeline; flux_kontext serves FluxKontextPipeline"):
        load(str(tmp_path), TorchBackend("cpu", "float32", threads=1))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_damaged_weights_file_stops_the_start(tmp_path: Path, part: str):
    checkpoints.flux_kontext(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])

    with pytest.raises(ConfigurationError, match=r"cannot be loaded: [^\n]+$"):
        load(str(tmp_path), TorchBackend("cpu", "float32", threads=1))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_weight_that_is_missing_is_named(tmp_path: Path, part: str):
    checkpoints.flux_kontext(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    weights = load_file(file)
    lost = min(name for name in weights if "norm" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, file, metadata={"format": "pt"})

    with pytest.raises(ConfigurationError, match=rf"{part} lacks 1 weights, the first is {lost}"):
        load(str(tmp_path), TorchBackend("cpu", "float32", threads=1))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("transformer/config.json", {"guidance_embeds": False}, "has no guidance embedding"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}, "use_karras_sigmas: True is not served"),
        ("transformer/config.json", {"num_layers": 2}, "transformer lacks"),
        ("vae/config.json", {"latent_channels": 8}, "cannot be loaded"),
    ],
)
def test_a_configuration_that_is_not_served_stops_the_start(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
):
    path = checkpoints.flux_kontext(tmp_path) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    with pytest.raises(ConfigurationError, match=message):
        load(str(tmp_path), TorchBackend("cpu", "float32", threads=1))


def _oracle(pipeline: type[DiffusionPipeline], folder: Path, precision: str) -> DiffusionPipeline:
    loaded = pipeline.from_pretrained(folder, dtype=getattr(torch, precision))
    loaded.set_progress_bar_config(disable=True)
    for module in loaded.components.values():
        if isinstance(module, torch.nn.Module):
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()
    loaded.components["vae"].to(memory_format=torch.channels_last)
    return loaded


def _run(pipeline: DiffusionPipeline, job: EditJob, seed: int, **arguments: float) -> tuple[torch.Tensor, Pixels]:
    """The pipeline's final latents and its picture."""
    height, width, _ = job.canvas.shape
    if job.mask is not None:
        arguments["mask_image"] = Image.fromarray(job.mask)  # pyright: ignore[reportArgumentType]
    oracle: Any = pipeline

    def call(output_type: str) -> Any:
        return oracle(
            image=Image.fromarray(job.canvas),
            prompt=job.prompt,
            height=height,
            width=width,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
            max_area=height * width,
            max_sequence_length=checkpoints.TEXT_TOKENS,
            _auto_resize=False,
            output_type=output_type,
            **arguments,
        ).images

    return call("latent"), np.asarray(call("pil")[0])


def _assert_equal(sample: Sample, family: FluxKontext, expected: tuple[torch.Tensor, Pixels]) -> None:
    latents, pixels = expected
    assert torch.equal(sample.latents, latents)
    assert np.array_equal(run_alone(family.decode(sample)), pixels)


def _edit(family: FluxKontext, job: EditJob, seed: int) -> Sample:
    sample = _begin(family, job, seed)
    while sample.remaining:
        run_alone(family.step(sample))
    return sample


def _begin(family: FluxKontext, job: EditJob, seed: int) -> Sample:
    texts = [run_alone(family.encode_text(prompt)) for prompt in family.text_prompts(job)]
    images = [run_alone(family.encode_image(pixels)) for pixels in (job.canvas, *job.references)]
    return family.begin(job, texts, images, seed)


def _unpacked(tokens: torch.Tensor) -> torch.Tensor:
    """Of a picture of 64x64 pixels."""
    return FluxKontextPipeline._unpack_latents(tokens, 64, 64, 8)  # pyright: ignore[reportPrivateUsage]


def _job(
    *,
    prompt: str = "make it red",
    size: tuple[int, int] = WHOLE,
    canvas: Pixels | None = None,
    references: tuple[Pixels, ...] = (),
    mask: Pixels | None = None,
    steps: int = 3,
    strength: float = 1.0,
    guidance: float = 2.5,
) -> EditJob:
    drawn = _picture(size, seed=0) if canvas is None else canvas
    return EditJob("request", prompt, drawn, references, mask, (0,), steps, strength, guidance)


@cache
def _picture(size: tuple[int, int], seed: int) -> Pixels:
    """Noise of (width, height), read-only as pixels that arrive from another process are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels


def _half_mask() -> Pixels:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:32] = 255
    return mask
