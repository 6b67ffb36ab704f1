"""One step of a batch: what the denoiser is called with, whose answer is whose, and bytes that no company changes."""

from collections.abc import Sequence

import pytest
import torch

from serve.engine.runner import NotFinite, Runner
from serve.errors import BackendLost, BackendUnavailable
from serve.families.base import Sample
from serve.types import EditJob
from tests.fake_family import FakeFamily, Fault, Where, drawn_alone, edit_job

BUCKET = 4


def begin(family: FakeFamily, job: EditJob) -> Sample:
    texts = [family.encode_text(prompt) for prompt in family.text_prompts(job)]
    images = [family.encode_image(job.canvas)]
    return family.begin(job, texts, images, job.seeds[0])


def fixed(family: FakeFamily, max_batch: int = BUCKET) -> Runner:
    return Runner(family, max_batch=max_batch, batch_invariant=False)


def exact(family: FakeFamily, max_batch: int = BUCKET) -> Runner:
    return Runner(family, max_batch=max_batch, batch_invariant=True)


def latents(sample: Sample) -> bytes:
    return sample.latents.numpy().tobytes()


def test_every_call_of_a_fixed_size_is_filled_up():
    family = FakeFamily()
    samples = [begin(family, edit_job(name)) for name in "abcdef"]
    fixed(family).step(samples)
    assert [len(call) for call in family.calls] == [4, 4]
    assert family.calls[0] == ("a:1", "b:1", "c:1", "d:1")
    assert family.calls[1][:2] == ("e:1", "f:1")


def test_an_invariant_denoiser_is_called_with_the_rows_there_are():
    family = FakeFamily()
    samples = [begin(family, edit_job(name)) for name in "abcdef"]
    exact(family).step(samples)
    assert [len(call) for call in family.calls] == [4, 2]


def test_each_row_moves_one_step_by_its_own_schedule():
    family = FakeFamily()
    samples = [begin(family, edit_job("a", steps=3)), begin(family, edit_job("b", steps=9))]
    assert exact(family).step(samples) == [None, None]
    assert [(sample.step, sample.remaining) for sample in samples] == [(1, 2), (1, 8)]


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["one pass", "two passes"])
@pytest.mark.parametrize("before", range(BUCKET))
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_row_has_the_same_bytes_at_every_place_in_any_company(before: int, after: int, guidance: float):
    job = edit_job("it", 7, steps=3, guidance=guidance)
    family = FakeFamily()
    others = [edit_job(f"other {i}", i, prompt=f"as in {i}", steps=9, picture=i) for i in range(before + after)]
    samples = [begin(family, other) for other in others]
    samples.insert(before, begin(family, job))
    runner = fixed(family)
    for _ in range(job.steps):
        assert not any(runner.step(samples))
    _, alone = drawn_alone(job, 7, BUCKET)
    assert latents(samples[before]) == alone


def test_two_passes_of_a_row_may_lie_in_two_calls():
    family = FakeFamily()
    job = edit_job("it", 7, guidance=3.0)
    sample = begin(family, job)
    runner = exact(family, max_batch=1)
    while sample.remaining:
        assert runner.step([sample]) == [None]
    assert family.calls == [("it:7",)] * 2 * job.steps
    expected = torch.frombuffer(bytearray(drawn_alone(job, 7, 2)[1]), dtype=torch.float32)
    # Another batch size is another order of summing: float32 rounding of values of order 1, over four steps.
    torch.testing.assert_close(sample.latents.flatten(), expected, atol=1e-5, rtol=0)


def test_a_row_that_is_not_finite_fails_alone():
    family = FakeFamily(Fault("poison", "nan"))
    samples = [
        begin(family, edit_job("a")),
        begin(family, edit_job("b", prompt="poison")),
        begin(family, edit_job("c")),
    ]
    failures = fixed(family).step(samples)
    assert [type(failure) for failure in failures] == [type(None), NotFinite, type(None)]
    healthy = [begin(family, edit_job("a"))]
    fixed(family).step(healthy)
    assert latents(samples[0]) == latents(samples[2]) == latents(healthy[0])


@pytest.mark.parametrize("where", ["step_inputs", "advance"])
def test_a_row_that_raises_fails_alone(where: str):
    error = RuntimeError("its own fault")
    family = FakeFamily(Fault("bad", "advance" if where == "advance" else "step_inputs", error))
    samples = [begin(family, edit_job("a")), begin(family, edit_job("b", prompt="bad")), begin(family, edit_job("c"))]
    assert fixed(family).step(samples) == [None, error, None]
    assert [sample.step for sample in samples] == [1, 0, 1]


def test_a_call_that_raises_fails_the_rows_in_it_and_no_others():
    error = BackendUnavailable("the executor is gone")
    family = FakeFamily(Fault("bad", "denoise", error))
    samples = [begin(family, edit_job(name)) for name in "abcd"] + [begin(family, edit_job("e", prompt="bad"))]
    assert fixed(family).step(samples) == [None] * 4 + [error]


STEP: tuple[Where, ...] = ("step_inputs", "denoise", "advance")


@pytest.mark.parametrize("where", STEP)
def test_a_device_that_is_gone_is_nobodys_own_failure(where: Where):
    family = FakeFamily(Fault("bad", where, torch.AcceleratorError("CUDA error: an illegal memory access")))
    with pytest.raises(BackendLost, match="CUDA error: an illegal memory access"):
        fixed(family).step([begin(family, edit_job("a", prompt="bad"))])


@pytest.mark.parametrize("where", STEP)
def test_a_device_without_memory_left_fails_its_rows_alone(where: Where):
    family = FakeFamily(Fault("bad", where, torch.OutOfMemoryError("2 GiB")))
    samples = [begin(family, edit_job(name)) for name in "abcd"] + [begin(family, edit_job("e", prompt="bad"))]
    assert [type(failure) for failure in fixed(family).step(samples)] == [type(None)] * 4 + [BackendUnavailable]


def test_an_answer_does_not_keep_the_whole_batch_in_memory():
    answers: list[torch.Tensor] = []

    class Keeping(FakeFamily):
        def advance(self, sample: Sample, outputs: Sequence[torch.Tensor]) -> None:
            answers.extend(outputs)
            super().advance(sample, outputs)

    family = Keeping()
    fixed(family).step([begin(family, edit_job("a")), begin(family, edit_job("b"))])
    assert [answer.untyped_storage().nbytes() for answer in answers] == [answer.nbytes for answer in answers]
