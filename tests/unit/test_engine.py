"""The engine from outside: jobs in, futures out, with a fake family that shows each batch and can be stopped in it."""

import json
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch

from serve.types import EditJob
from tests.fake_backend import fixed_size
from tests.fake_family import MAX_WORDS, FakeFamily, drawn_alone, edit_job
from tests.gates import TIMEOUT_S, Gate
from tests.running_engine import engine_of, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself

# Results


def test_a_job_ends_with_one_picture_a_seed_in_the_seeds_order():
    job = edit_job("a", 30, 10, 20, steps=3, references=1)
    with running(engine_of(FakeFamily(), max_batch=2)) as engine:
        images = result_of(engine.submit(job)).images
    assert len(images) == 3
    for image, seed in zip(images, job.seeds, strict=True):
        np.testing.assert_array_equal(image, drawn_alone(job, seed)[0])


def test_classifier_free_guidance_makes_both_passes():
    job = edit_job("a", 5, guidance=4.0)
    with running(engine_of(FakeFamily(), max_batch=2)) as engine:
        image = result_of(engine.submit(job)).images[0]
    np.testing.assert_array_equal(image, drawn_alone(job, 5)[0])


def test_a_row_wider_than_a_batch_takes_several_calls():
    job = edit_job("a", 5, guidance=4.0, steps=3)
    family = FakeFamily()
    with running(engine_of(family, max_batch=1)) as engine:
        image = result_of(engine.submit(job)).images[0]
        assert engine.stats().passes == 6
    assert family.calls("denoiser") == [("a:5",)] * 6
    np.testing.assert_array_equal(image, drawn_alone(job, 5)[0])


@pytest.mark.parametrize("place", range(4))
def test_the_same_seed_gives_the_same_bytes_at_every_place_of_a_full_batch(place: int):
    family = FakeFamily(backend=fixed_size())
    jobs = [edit_job(f"other {i}", i, prompt=f"as in {i}", picture=i) for i in range(3)]
    jobs.insert(place, edit_job("it", 7))
    engine = engine_of(family)
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        wait(futures, TIMEOUT_S)
    assert any(call.index("it:7") == place for call in family.calls("denoiser") if len(set(call)) == 4)
    assert family.final_latents["it:7"] == drawn_alone(edit_job("it", 7), 7, 4)[1]


def test_an_image_of_a_larger_n_has_the_bytes_of_its_seed_alone():
    family = FakeFamily(backend=fixed_size())
    with running(engine_of(family)) as engine:
        result_of(engine.submit(edit_job("many", 5, 6, 7, 8, 9)))
        for seed in (5, 6, 7, 8, 9):
            result_of(engine.submit(edit_job("alone", seed)))
    for seed in (5, 6, 7, 8, 9):
        assert family.final_latents[f"many:{seed}"] == family.final_latents[f"alone:{seed}"]


def test_nothing_draws_from_the_global_generator():
    before = torch.random.get_rng_state()
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(edit_job("a", 1, 2)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "job",
    [edit_job("a", 1, 2, prompt="word " * 20, strength=0.0), edit_job("a", 1, 2, prompt="word " * 20, steps=0)],
    ids=["strength 0", "no step"],
)
def test_a_job_with_nothing_to_run_answers_the_canvas(job: EditJob):
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        result = result_of(engine.submit(job))
    assert [image is job.canvas for image in result.images] == [True, True]
    assert (family.log, result.usage.output_tokens, result.revised_prompt) == ([], 0, None)


def test_usage_counts_the_prompt_the_sources_and_every_output():
    job = edit_job("a", 1, 2, 3, prompt="four words are here", guidance=3.0, side=8, references=2)
    with running(engine_of(FakeFamily())) as engine:
        usage = result_of(engine.submit(job)).usage
    cells = (8 // 2) ** 2
    assert (usage.text_tokens, usage.image_tokens, usage.output_tokens) == (4, 3 * cells, 3 * cells)


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["its own prompt", "beside the empty one"])
def test_a_prompt_that_is_too_long_is_answered_as_far_as_it_was_read(guidance: float):
    words = [f"word{i}" for i in range(MAX_WORDS + 5)]
    read = "  ".join(words[:MAX_WORDS])
    with running(engine_of(FakeFamily())) as engine:
        long, short = (
            result_of(engine.submit(edit_job("a", prompt=prompt, guidance=guidance)))
            for prompt in ("  ".join(words), read)
        )
    assert (long.revised_prompt, short.revised_prompt) == (read, None)
    np.testing.assert_array_equal(long.images[0], short.images[0])


def test_a_kept_encoding_still_tells_that_it_was_cut():
    long = "word " * 20
    with running(engine_of(FakeFamily())) as engine:
        revised = [result_of(engine.submit(edit_job("a", seed, prompt=long))).revised_prompt for seed in (1, 2)]
        stats = engine.stats()
    assert (stats.text_hits, stats.image_hits) == (1, 1)
    assert revised == [("word " * MAX_WORDS).rstrip()] * 2


def test_timings_name_every_stage_of_the_engine():
    with running(engine_of(FakeFamily())) as engine:
        timings_ms = result_of(engine.submit(edit_job("a"))).timings_ms
    assert set(timings_ms) == {"queue", "encode", "denoise", "vae"}
    assert min(timings_ms.values()) >= 0
    assert timings_ms["denoise"] > 0


# Batches


def test_a_job_joins_at_a_step_boundary_while_others_run():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        engine.submit(edit_job("a", steps=4))
        assert gate.wait() == ("a:1",)
        engine.submit(edit_job("b", steps=4))
        assert set(gate.step()) == {"a:1", "b:1"}


def test_a_finished_row_leaves_its_place_to_one_that_waits():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=2), gate) as engine:
        engine.submit(edit_job("a", steps=2))
        assert gate.wait() == ("a:1",)
        engine.submit(edit_job("b", steps=3))
        engine.submit(edit_job("c", steps=3))
        assert set(gate.step()) == {"a:1", "b:1"}
        assert set(gate.step()) == {"b:1", "c:1"}


def test_pictures_of_different_sizes_never_share_a_call():
    family = FakeFamily()
    engine = engine_of(family)
    jobs = [edit_job(f"{side}-{i}", side=side) for i in range(3) for side in (8, 12)]
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        for job, future in zip(jobs, futures, strict=True):
            np.testing.assert_array_equal(result_of(future).images[0], drawn_alone(job, 1)[0])
    for component in ("denoiser", "decoder"):
        assert all(len({name.split("-")[0] for name in call}) == 1 for call in family.calls(component))


def test_a_sweep_of_seeds_and_a_retry_encode_once():
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        for job in (edit_job("a", 1, 2, 3), edit_job("retry", 1, 2, 3), edit_job("sweep", 4)):
            result_of(engine.submit(job))
        result_of(engine.submit(edit_job("other words", prompt="make it red")))
        stats = engine.stats()
    assert family.calls("text_encoder") == [("make it blue",), ("make it red",)]
    assert len(family.calls("image_encoder")) == 1
    assert (stats.text_misses, stats.text_hits, stats.image_misses, stats.image_hits) == (2, 2, 1, 3)
    assert stats.cache_bytes > 0


def test_stats_count_what_the_denoiser_was_called_with():
    with running(engine_of(FakeFamily(backend=fixed_size()))) as engine:
        result_of(engine.submit(edit_job("a", 1, 2, 3, steps=5)))
        stats = engine.stats()
    assert (stats.steps, stats.row_steps, stats.passes, stats.filler_passes) == (5, 15, 20, 5)
    assert (stats.waiting_rows, stats.running_rows, stats.wasted_row_steps) == (0, 0, 0)


def test_every_step_is_a_line_of_the_log_of_steps(tmp_path: Path):
    log = tmp_path / "of" / "steps.jsonl"
    engine = engine_of(FakeFamily(), step_log=log)
    engine.submit(edit_job("a", 1, 2, steps=2))
    last = engine.submit(edit_job("b", prompt="another", steps=3))
    with running(engine):
        result_of(last)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["rows"], line["passes"], line["filler"], line["waiting"], line["encodes"]) for line in lines]
    assert told == [(3, 3, 0, 0, 2), (3, 3, 0, 0, 0), (1, 1, 0, 0, 0)]
    assert all(line["seconds"] > 0 for line in lines)
    assert sum(line["decodes"] for line in lines) <= 2


# Whole requests together


def names(call: tuple[str, ...]) -> set[str]:
    return {name.split(":")[0] for name in call}


def test_whole_requests_of_equal_parameters_run_together_from_start_to_end():
    family = FakeFamily()
    engine = engine_of(family, batching="requests")
    jobs = [edit_job("a", steps=3), edit_job("short", steps=2), edit_job("b", prompt="another", steps=3)]
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        for job, future in zip(jobs, futures, strict=True):
            np.testing.assert_array_equal(result_of(future).images[0], drawn_alone(job, 1)[0])
    assert [names(call) for call in family.calls("denoiser")] == [{"a", "b"}] * 3 + [{"short"}] * 2


def test_nothing_joins_whole_requests_that_run():
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    with running(engine_of(family, batching="requests"), gate) as engine:
        first = engine.submit(edit_job("a", steps=3))
        gate.wait()
        late = engine.submit(edit_job("late", steps=3))
        gate.open()
        assert [result_of(future).place.position for future in (first, late)] == [0, 1]
    assert [names(call) for call in family.calls("denoiser")] == [{"a"}] * 3 + [{"late"}] * 3


def test_without_batching_one_request_runs_at_a_time():
    family = FakeFamily()
    engine = engine_of(family, batching="none")
    jobs = [edit_job("a", 1, 2, steps=3), edit_job("b", steps=3), edit_job("c", 1, 2, 3, 4, 5, steps=1)]
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        for job, future in zip(jobs, futures, strict=True):
            for seed, image in zip(job.seeds, result_of(future).images, strict=True):
                np.testing.assert_array_equal(image, drawn_alone(job, seed)[0])
    assert [names(call) for call in family.calls("denoiser")] == [{"a"}] * 3 + [{"b"}] * 3 + [{"c"}] * 2
    assert [len(call) for call in family.calls("denoiser")] == [2] * 3 + [1] * 3 + [4, 1]


@pytest.mark.parametrize("batching", ["requests", "none"])
def test_a_cancelled_request_makes_way_for_the_next(batching: str):
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    with running(engine_of(family, batching="requests" if batching == "requests" else "none"), gate) as engine:
        leaving, staying = engine.submit(edit_job("leaving", steps=50)), engine.submit(edit_job("staying", steps=2))
        gate.wait()
        leaving.cancel()
        assert gate.step() == ("staying:1",)
        gate.open()
        result_of(staying)
    assert leaving.cancelled()
