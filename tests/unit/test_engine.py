"""The engine from outside: jobs in, futures out, with a fake family that shows each batch and can be stopped in it."""

from concurrent.futures import wait

import numpy as np
import pytest
import torch

from tests.fake_family import MAX_WORDS, TIMEOUT_S, FakeFamily, Gate, drawn_alone, edit_job
from tests.running_engine import engine_of, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself

# Results


def test_a_job_ends_with_one_picture_a_seed_in_the_seeds_order():
    job = edit_job("a", 30, 10, 20, steps=3, references=1)
    with running(engine_of(FakeFamily(), max_batch=1)) as engine:
        images = result_of(engine.submit(job)).images
    assert len(images) == 3
    for image, seed in zip(images, job.seeds, strict=True):
        np.testing.assert_array_equal(image, drawn_alone(job, seed, 1)[0])


def test_classifier_free_guidance_makes_both_passes():
    job = edit_job("a", 5, guidance=4.0)
    with running(engine_of(FakeFamily(), max_batch=2)) as engine:
        image = result_of(engine.submit(job)).images[0]
    np.testing.assert_array_equal(image, drawn_alone(job, 5, 2)[0])


@pytest.mark.parametrize("place", range(4))
def test_the_same_seed_gives_the_same_bytes_at_every_place_of_a_full_batch(place: int):
    family = FakeFamily()
    jobs = [edit_job(f"other {i}", i, prompt=f"as in {i}", picture=i) for i in range(3)]
    jobs.insert(place, edit_job("it", 7))
    engine = engine_of(family, invariant=False)
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        wait(futures, TIMEOUT_S)
    assert any(call.index("it:7") == place for call in family.calls if len(set(call)) == 4)
    assert family.final_latents["it:7"] == drawn_alone(edit_job("it", 7), 7, 4)[1]


def test_an_image_of_a_larger_n_has_the_bytes_of_its_seed_alone():
    family = FakeFamily()
    with running(engine_of(family, invariant=False)) as engine:
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


def test_a_strength_of_zero_answers_the_canvas():
    job = edit_job("a", 1, 2, strength=0.0)
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        result = result_of(engine.submit(job))
    assert [image is job.canvas for image in result.images] == [True, True]
    assert (family.calls, result.usage.output_tokens) == ([], 0)


def test_a_row_with_no_step_left_is_the_canvas():
    job = edit_job("a", 1, 2, steps=0)
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        images = result_of(engine.submit(job)).images
    assert [image is job.canvas for image in images] == [True, True]
    assert family.calls == []


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
        assert engine.stats().cache_hits == 2
    assert revised == [("word " * MAX_WORDS).rstrip()] * 2


def test_a_prompt_that_did_not_run_is_not_revised():
    with running(engine_of(FakeFamily())) as engine:
        result = result_of(engine.submit(edit_job("a", prompt="word " * 20, strength=0.0)))
    assert result.revised_prompt is None


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


def test_a_short_job_overtakes_a_long_one_in_a_full_batch():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=1), gate) as engine:
        engine.submit(edit_job("long", steps=20))
        assert gate.wait() == ("long:1",)
        engine.submit(edit_job("short", steps=2))
        assert [gate.step() for _ in range(3)] == [("short:1",), ("short:1",), ("long:1",)]


def test_pictures_of_different_sizes_never_share_a_call():
    family = FakeFamily()
    engine = engine_of(family)
    futures = [engine.submit(edit_job(f"{side}-{i}", side=side)) for i in range(3) for side in (8, 12)]
    with running(engine):
        wait(futures, TIMEOUT_S)
    assert all(len({name.split("-")[0] for name in call}) == 1 for call in family.calls)


def test_one_job_is_encoded_at_a_boundary():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate))
    for i in range(3):
        engine.submit(edit_job(f"{i}", prompt=f"do {i}", steps=9))
    with running(engine, gate):
        assert [len(gate.wait()), len(gate.step()), len(gate.step())] == [1, 2, 3]


def test_jobs_whose_encodings_are_kept_join_together():
    gate = Gate()
    engine = engine_of(FakeFamily(step_gate=gate))
    with running(engine, gate):
        engine.submit(edit_job("a", steps=9))
        gate.wait()
        for name in "bcd":
            engine.submit(edit_job(name, steps=9))
        assert set(gate.step()) == {"a:1", "b:1", "c:1", "d:1"}


def test_a_sweep_of_seeds_and_a_retry_encode_once():
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        for job in (edit_job("a", 1, 2, 3), edit_job("retry", 1, 2, 3), edit_job("sweep", 4)):
            result_of(engine.submit(job))
        result_of(engine.submit(edit_job("other words", prompt="make it red")))
        stats = engine.stats()
    assert (family.encoded_prompts, family.encoded_images) == (["make it blue", "make it red"], 1)
    assert (stats.cache_misses, stats.cache_hits) == (3, 5)


def test_one_row_is_decoded_at_a_boundary_and_at_most_a_batch_of_finished_rows_piles_up():
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        result_of(engine.submit(edit_job("a", *range(16), steps=1)))
    # Four rows finish with each call: one of the first four is decoded, then all but four.
    assert family.decodes_before_call == [0, 1, 4, 8]
