"""Encodings of several jobs at a time: what is encoded, what is kept, and whose failure is whose."""

from collections.abc import Sequence

import pytest
import torch

from serve.engine.encoder import Encoder, Encodings
from serve.engine.runner import NotFinite, Runner
from serve.errors import BackendLost, DeviceOutOfMemory
from serve.types import EditJob
from tests.fake_backend import FakeBackend, fixed_size
from tests.fake_family import FakeFamily, Fault, Where, edit_job, picture_name
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.stages import run_alone

FOUR_JOBS = [edit_job(f"{i}", prompt=f"as in {i}", picture=i) for i in range(4)]


def encoder_of(family: FakeFamily, cache_bytes: int = 2**20) -> Encoder:
    return Encoder(family, Runner(family, family.backend, max_batch=4), cache_bytes)


def answered(encoder: Encoder, jobs: Sequence[EditJob]) -> list[Encodings | Exception]:
    return encoder.encode([encoder.parts(job) for job in jobs])


def encoded(encoder: Encoder, jobs: Sequence[EditJob]) -> list[Encodings]:
    answers = answered(encoder, jobs)
    assert all(isinstance(answer, Encodings) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Encodings)]


def test_several_jobs_are_one_call_of_each_component():
    family = FakeFamily()
    encoded(encoder_of(family), FOUR_JOBS)
    assert family.log == [
        ("text_encoder", tuple(job.prompt for job in FOUR_JOBS)),
        ("image_encoder", tuple(picture_name(job.canvas) for job in FOUR_JOBS)),
    ]


def test_several_jobs_are_one_call_each_where_the_size_of_a_call_changes_its_bytes():
    family = FakeFamily(backend=fixed_size())
    encoded(encoder_of(family), FOUR_JOBS)
    assert family.calls("text_encoder") == [(job.prompt,) for job in FOUR_JOBS]
    assert family.calls("image_encoder") == [(picture_name(job.canvas),) for job in FOUR_JOBS]


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_the_encodings_of_a_job_are_the_same_in_any_company(backend: FakeBackend):
    family = FakeFamily(backend=backend)
    jobs = [edit_job(f"{i}", prompt=f"as in {i}", picture=i, references=i, guidance=1 + i % 2) for i in range(5)]
    for job, encodings in zip(jobs, encoded(encoder_of(family), jobs), strict=True):
        texts = [run_alone(family.encode_text(prompt)) for prompt in family.text_prompts(job)]
        images = [run_alone(family.encode_image(pixels)) for pixels in (job.canvas, *job.references)]
        assert len(encodings.texts) == len(texts)
        assert len(encodings.images) == len(images)
        assert all(
            torch.equal(one.tensors["text"], other.tensors["text"])
            for one, other in zip(encodings.texts, texts, strict=True)
        )
        assert all(map(torch.equal, encodings.images, images))


def test_what_several_jobs_need_is_encoded_once():
    family = FakeFamily()
    encoder = encoder_of(family)
    jobs = [edit_job("a", 1, 2), edit_job("b", guidance=3.0), edit_job("c", prompt="other", guidance=3.0)]
    first, second, third = encoded(encoder, jobs)
    assert family.calls("text_encoder") == [("make it blue", "", "other")]
    assert family.calls("image_encoder") == [(picture_name(jobs[0].canvas),)]
    assert (first.texts[0], second.texts[0]) == (second.texts[1], third.texts[0])
    assert (encoder.texts.misses, encoder.images.misses) == (3, 1)


def test_what_is_kept_is_not_encoded_again_and_counts_as_a_hit():
    family = FakeFamily()
    encoder = encoder_of(family)
    encoded(encoder, FOUR_JOBS[:2])
    family.log.clear()
    encoded(encoder, FOUR_JOBS[1:3])
    assert family.log == [
        ("text_encoder", (FOUR_JOBS[2].prompt,)),
        ("image_encoder", (picture_name(FOUR_JOBS[2].canvas),)),
    ]
    assert (encoder.texts.hits, encoder.texts.misses) == (1, 3)
    assert (encoder.images.hits, encoder.images.misses) == (1, 3)


def test_what_is_kept_is_known_by_its_content():
    family = FakeFamily()
    encoder = encoder_of(family)
    job = edit_job("a")
    flipped = edit_job("b").canvas[:, ::-1]
    for pixels in (job.canvas, job.canvas.copy(), flipped, flipped.copy()):
        encoded(encoder, [EditJob("a", job.prompt, pixels, (), None, (1,), 4, 1.0, 1.0)])
    assert (encoder.images.hits, encoder.images.misses) == (2, 2)


def test_nothing_is_kept_without_room_for_it():
    family = FakeFamily()
    encoder = encoder_of(family, cache_bytes=0)
    for _ in range(2):
        encoded(encoder, FOUR_JOBS[:1])
    assert (encoder.texts.misses, encoder.images.misses, encoder.used_bytes) == (2, 2, 0)


def test_what_is_kept_stays_within_its_bound():
    family = FakeFamily()
    text, image = 8 * 4, 16 * 12 * 4
    encoder = encoder_of(family, cache_bytes=2 * (2 * image))
    encoded(encoder, FOUR_JOBS)
    assert encoder.used_bytes == 4 * text + 2 * image


@pytest.mark.parametrize("where", ["encode_text", "nan in text_encoder"])
@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_a_prompt_that_fails_ends_those_who_need_it_alone(where: Where, backend: FakeBackend):
    family = FakeFamily(Fault("bad", where), backend=backend)
    encoder = encoder_of(family)
    names = ("a", "bad", "c", "bad")
    answers = answered(encoder, [edit_job(f"{i}", prompt=name, picture=i) for i, name in enumerate(names)])
    assert [isinstance(answer, Encodings) for answer in answers] == [True, False, True, False]
    assert isinstance(answers[1], NotFinite if where.startswith("nan") else RuntimeError)
    assert "bad" not in encoder.texts
    assert "a" in encoder.texts


@pytest.mark.parametrize("where", ["encode_image", "image_encoder"])
def test_a_picture_that_fails_ends_those_who_need_it_alone(where: Where):
    bad = edit_job("bad", picture=7)
    family = FakeFamily(Fault(picture_name(bad.canvas), where, times=1), backend=fixed_size())
    encoder = encoder_of(family)
    answers = answered(encoder, [edit_job("a"), bad, edit_job("c", picture=3)])
    assert [isinstance(answer, Encodings) for answer in answers] == [True, False, True]
    encoded(encoder, [bad])


def test_a_job_for_which_there_is_no_memory_even_alone_ends_alone():
    """Four together, two, and one."""
    family = FakeFamily(Fault("bad", "text_encoder", DeviceOutOfMemory("no room"), times=3))
    encoder = encoder_of(family)
    jobs = [edit_job(name, prompt=name) for name in ("a", "b", "c", "bad")]
    answers = answered(encoder, jobs)
    assert [isinstance(answer, DeviceOutOfMemory) for answer in answers] == [False, False, False, True]
    encoded(encoder, jobs)


@pytest.mark.parametrize("where", ["encode_text", "text_encoder"])
def test_a_device_that_is_gone_is_nobodys_own_failure(where: Where):
    encoder = encoder_of(FakeFamily(Fault("bad", where, torch.AcceleratorError("CUDA error"))))
    with pytest.raises(BackendLost):
        answered(encoder, [edit_job("a"), edit_job("b", prompt="bad")])


def test_usage_and_what_was_read_are_those_of_the_jobs_own_prompt():
    (encodings,) = encoded(encoder_of(FakeFamily()), [edit_job("a", 1, 2, prompt="word " * 20, guidance=3.0)])
    assert encodings.revised_prompt == ("word " * 16).rstrip()
    assert (encodings.usage.text_tokens, encodings.usage.image_tokens, encodings.usage.output_tokens) == (16, 16, 32)
