"""Stages side by side: what components are called with, whose answer is whose, and bytes that no company changes."""

import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from serve.backends.base import Component
from serve.engine.runner import NotFinite, Runner
from serve.errors import BackendLost, BackendUnavailable, ConfigurationError, DeviceOutOfMemory
from serve.families.base import Call, Sample, Stage
from tests.fake_backend import FakeBackend, FakeMemory, fixed_size
from tests.fake_family import ComponentName, FakeFamily, Fault, Where, begun, drawn_alone, edit_job, picture_name
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.stages import run_alone

BUCKET = 4


def runner_of(family: FakeFamily, max_batch: int = BUCKET) -> Runner:
    return Runner(family, family.backend, max_batch)


def stepped(runner: Runner, family: FakeFamily, samples: Sequence[Sample]) -> list[Exception | None]:
    """One step of each, under names that stay the same from step to step."""
    rows = [int(sample.passes[0]["who"]) for sample in samples]
    return runner.run([family.step(sample) for sample in samples], rows)


def six_rows(family: FakeFamily) -> list[Sample]:
    return [begun(family, edit_job(name)) for name in "abcdef"]


def told(failures: Sequence[Exception | None]) -> list[str]:
    return [str(failure) for failure in failures]


def latents(sample: Sample) -> bytes:
    return sample.latents.numpy().tobytes()


def sizes(family: FakeFamily, component: ComponentName) -> list[int]:
    return [len(call) for call in family.calls(component)]


# What is called together


def test_every_denoiser_call_of_a_fixed_size_is_filled_up():
    family = FakeFamily(backend=fixed_size())
    runner = runner_of(family)
    stepped(runner, family, six_rows(family))
    assert sizes(family, "denoiser") == [4, 4]
    assert family.calls("denoiser")[0] == ("a:1", "b:1", "c:1", "d:1")
    assert family.calls("denoiser")[1][:2] == ("e:1", "f:1")
    assert (runner.counters.passes, runner.counters.filler_passes) == (8, 2)


def test_an_invariant_denoiser_is_called_with_the_rows_there_are():
    family = FakeFamily()
    runner = runner_of(family)
    stepped(runner, family, six_rows(family))
    assert sizes(family, "denoiser") == [4, 2]
    assert (runner.counters.passes, runner.counters.filler_passes) == (6, 0)


@pytest.mark.parametrize(("backend", "expected"), [(FakeBackend(), [6]), (fixed_size(), [1] * 6)], ids=["any", "fixed"])
def test_other_components_are_called_with_all_rows_or_with_one(backend: FakeBackend, expected: list[int]):
    family = FakeFamily(backend=backend)
    runner = runner_of(family)
    jobs = [edit_job(f"{i}", i, prompt=f"as in {i}", picture=i) for i in range(6)]
    samples = [begun(family, job) for job in jobs]
    family.log.clear()
    runner.run([family.encode_text(job.prompt) for job in jobs])
    runner.run([family.encode_image(job.canvas) for job in jobs])
    runner.run([family.decode(sample) for sample in samples])
    assert [sizes(family, name) for name in ("text_encoder", "image_encoder", "decoder")] == [expected] * 3
    assert family.calls("text_encoder")[0][0] == "as in 0"
    assert family.calls("image_encoder")[0][0] == picture_name(jobs[0].canvas)


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_every_stage_is_sent_its_own_answers(backend: FakeBackend):
    family = FakeFamily(backend=backend)
    runner = runner_of(family)
    jobs = [edit_job(f"{i}", i, picture=i) for i in range(6)]
    samples = [begun(family, job) for job in jobs]
    images = runner.run([family.encode_image(job.canvas) for job in jobs])
    pictures = runner.run([family.decode(sample) for sample in samples])
    for job, sample, image, picture in zip(jobs, samples, images, pictures, strict=True):
        assert isinstance(image, torch.Tensor)
        assert isinstance(picture, np.ndarray)
        assert torch.equal(image, run_alone(family.encode_image(job.canvas)))
        np.testing.assert_array_equal(picture, run_alone(family.decode(sample)))


def test_a_component_is_called_with_no_more_rows_than_it_declares():
    family = FakeFamily()
    runner_of(family).run([family.encode_text(f"as in {i}") for i in range(70)])
    assert sizes(family, "text_encoder") == [64, 6]


def test_a_denoiser_that_does_not_take_a_batch_of_a_fixed_size_stops_the_start():
    with pytest.raises(ConfigurationError, match="max_batch is 65; fake runs 64 rows of the denoiser at most"):
        runner_of(FakeFamily(backend=fixed_size()), max_batch=65)

    assert runner_of(FakeFamily(), max_batch=65).together == 65


def test_stages_of_several_components_and_shapes_run_side_by_side():
    family = FakeFamily()
    small, large = edit_job("small"), edit_job("large", side=12)
    samples = [begun(family, job) for job in (small, large, small)]
    family.log.clear()
    assert stepped(runner_of(family), family, samples) == [None] * 3
    assert family.calls("denoiser") == [("small:1", "small:1"), ("large:1",)]


def test_a_stage_may_ask_again_and_may_ask_for_nothing():
    family = FakeFamily()

    def twice(prompt: str) -> Stage[list[torch.Tensor]]:
        first = yield from family.encode_text(prompt)
        yield ()
        second = yield from family.encode_text(prompt + " too")
        return [first.tensors["text"], second.tensors["text"]]

    def nothing() -> Stage[str]:
        yield ()
        return "nothing"

    asked, empty, none = runner_of(family).run([twice("red"), nothing(), twice("blue")])
    assert family.calls("text_encoder") == [("red", "blue"), ("red too", "blue too")]
    assert empty == "nothing"
    assert not isinstance(asked, Exception | str)
    assert not isinstance(none, Exception | str)
    assert torch.equal(asked[1], run_alone(family.encode_text("red too")).tensors["text"])


def test_nothing_to_run_calls_nothing():
    family = FakeFamily()
    stages: list[Stage[None]] = []
    assert runner_of(family).run(stages) == []
    assert family.log == []


# Steps


def test_each_row_moves_one_step_by_its_own_schedule():
    family = FakeFamily()
    samples = [begun(family, edit_job("a", steps=3)), begun(family, edit_job("b", steps=9))]
    assert stepped(runner_of(family), family, samples) == [None, None]
    assert [(sample.done, sample.remaining) for sample in samples] == [(1, 2), (1, 8)]


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["one pass", "two passes"])
@pytest.mark.parametrize("before", range(BUCKET))
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_row_has_the_same_bytes_at_every_place_in_any_company(
    before: int, after: int, guidance: float, backend: FakeBackend
):
    job = edit_job("it", 7, steps=3, guidance=guidance)
    family = FakeFamily(backend=backend)
    others = [edit_job(f"other {i}", i, prompt=f"as in {i}", steps=9, picture=i) for i in range(before + after)]
    samples = [begun(family, other) for other in others]
    samples.insert(before, begun(family, job))
    runner = runner_of(family)
    for _ in range(job.steps):
        assert not any(stepped(runner, family, samples))
    _, alone = drawn_alone(job, 7, bucket=0 if backend.batch_invariant else BUCKET)
    assert latents(samples[before]) == alone


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_rows_that_come_and_go_leave_each_others_bytes_alone(backend: FakeBackend):
    family = FakeFamily(backend=backend)
    jobs = [edit_job(f"{i}", i, prompt=f"as in {i}", steps=3 + i % 4, picture=i, guidance=1 + i % 2) for i in range(9)]
    runner = runner_of(family)
    waiting = [begun(family, job) for job in jobs]
    samples = list(waiting)
    resident: list[Sample] = []
    while waiting or resident:
        resident += [waiting.pop(0) for _ in range(min(len(waiting), 3 - len(resident)))]
        assert not any(stepped(runner, family, resident))
        resident = [sample for sample in reversed(resident) if sample.remaining]
    bucket = 0 if backend.batch_invariant else BUCKET
    for job, sample in zip(jobs, samples, strict=True):
        assert latents(sample) == drawn_alone(job, job.seeds[0], bucket)[1]


def test_two_passes_of_a_row_may_lie_in_two_calls():
    family = FakeFamily()
    job = edit_job("it", 7, guidance=3.0)
    sample = begun(family, job)
    runner = runner_of(family, max_batch=1)
    while sample.remaining:
        assert stepped(runner, family, [sample]) == [None]
    assert family.calls("denoiser") == [("it:7",)] * 2 * job.steps
    assert latents(sample) == drawn_alone(job, 7)[1]


def test_rows_without_names_are_never_taken_for_those_before_them():
    family = FakeFamily()
    runner = runner_of(family)
    jobs = [edit_job("a", 1), edit_job("b", 2, prompt="another", picture=2)]
    for job in jobs:
        sample = begun(family, job)
        while sample.remaining:
            assert runner.run([family.step(sample)]) == [None]
        assert latents(sample) == drawn_alone(job, job.seeds[0])[1]


def test_an_answer_does_not_keep_the_whole_batch_in_memory():
    family = FakeFamily(backend=fixed_size())
    answers: list[torch.Tensor] = []

    def keeping(sample: Sample) -> Stage[None]:
        stage = family.step(sample)
        outputs = yield next(stage)
        answers.extend(output["velocity"] for output in outputs)

    runner_of(family).run([keeping(begun(family, edit_job(name))) for name in "ab"])
    assert [answer.untyped_storage().nbytes() for answer in answers] == [answer.nbytes for answer in answers]


# Failures


def test_a_row_that_is_not_finite_fails_alone():
    family = FakeFamily(Fault("poison", "nan in denoiser"), backend=fixed_size())
    samples = [begun(family, edit_job(name, prompt=name)) for name in ("a", "poison", "c")]
    failures = stepped(runner_of(family), family, samples)
    assert [type(failure) for failure in failures] == [type(None), NotFinite, type(None)]
    for name, sample in (("a", samples[0]), ("c", samples[2])):
        healthy = begun(family, edit_job(name, prompt=name))
        run_alone(family.step(healthy), copies=BUCKET)
        assert latents(sample) == latents(healthy)


def test_a_text_or_a_picture_that_is_not_finite_fails_alone():
    family = FakeFamily(Fault("poison", "nan in text_encoder"), Fault("bad", "nan in decoder"))
    runner = runner_of(family)
    texts = runner.run([family.encode_text(prompt) for prompt in ("red", "poison")])
    samples = [begun(family, edit_job(prompt, prompt=prompt)) for prompt in ("good", "bad")]
    pictures = runner.run([family.decode(sample) for sample in samples])
    assert [isinstance(one, NotFinite) for one in (*texts, *pictures)] == [False, True, False, True]


@pytest.mark.parametrize("where", ["step", "stepped"])
def test_a_row_that_raises_fails_alone(where: Where):
    family = FakeFamily(Fault("bad", where, RuntimeError("its own fault")))
    samples = [begun(family, edit_job(name, prompt=name)) for name in ("a", "bad", "c")]
    assert told(stepped(runner_of(family), family, samples)) == ["None", "its own fault", "None"]
    assert [sample.done for sample in samples] == [1, 0, 1]


def test_a_call_that_raises_fails_the_rows_in_it_and_no_others():
    family = FakeFamily(Fault("bad", "denoiser", BackendUnavailable("not now")))
    samples = [begun(family, edit_job(name, prompt=name)) for name in ("a", "b", "c", "d", "bad")]
    assert told(stepped(runner_of(family), family, samples)) == ["None"] * 4 + ["not now"]


def test_a_row_with_one_pass_in_a_call_that_raises_fails_once():
    family = FakeFamily(Fault("bad", "denoiser", BackendUnavailable("not now")))
    samples = [begun(family, edit_job(name, prompt=name, guidance=3.0)) for name in ("a", "b")]
    samples.append(begun(family, edit_job("bad", prompt="bad")))
    assert told(stepped(runner_of(family, max_batch=3), family, samples)) == ["None", "not now", "not now"]


def test_a_failed_stage_is_closed():
    closed: list[str] = []
    family = FakeFamily(Fault("bad", "text_encoder"))

    def guarded(prompt: str) -> Stage[None]:
        try:
            yield from family.encode_text(prompt)
        finally:
            closed.append(prompt)

    failures = runner_of(family).run([guarded("bad")])
    assert isinstance(failures[0], RuntimeError)
    assert closed == ["bad"]


STEP: tuple[Where, ...] = ("step", "denoiser", "stepped")


@pytest.mark.parametrize("where", STEP)
def test_a_device_that_is_gone_is_nobodys_own_failure(where: Where):
    family = FakeFamily(Fault("bad", where, torch.AcceleratorError("CUDA error: an illegal memory access")))
    with pytest.raises(BackendLost, match="CUDA error: an illegal memory access"):
        stepped(runner_of(family), family, [begun(family, edit_job("a", prompt="bad"))])


# Out of memory


@pytest.mark.parametrize("where", STEP)
def test_a_row_that_the_device_never_has_memory_for_fails(where: Where):
    family = FakeFamily(Fault("bad", where, torch.OutOfMemoryError("2 GiB")), backend=fixed_size())
    samples = [begun(family, edit_job(name, prompt=name)) for name in ("a", "b", "c", "d", "bad")]
    failures = stepped(runner_of(family), family, samples)
    assert [type(failure) for failure in failures] == [type(None)] * 4 + [DeviceOutOfMemory]


def test_a_batch_that_does_not_fit_runs_in_halves_with_the_same_bytes():
    family = FakeFamily(backend=FakeBackend(fits={"denoiser": 3}, memory=(memory := FakeMemory())))
    runner = runner_of(family)
    jobs = [edit_job(f"{i}", i, prompt=f"as in {i}", picture=i) for i in range(4)]
    samples = [begun(family, job) for job in jobs]
    assert stepped(runner, family, samples) == [None] * 4
    assert sizes(family, "denoiser") == [4, 2, 2]
    assert (runner.counters.out_of_memory, memory.releases) == (1, 1)
    while samples[0].remaining:
        assert stepped(runner, family, samples) == [None] * 4
    assert [latents(sample) for sample in samples] == [drawn_alone(job, job.seeds[0])[1] for job in jobs]


def test_a_row_that_does_not_fit_alone_fails_alone():
    family = FakeFamily(Fault("large", "denoiser", torch.OutOfMemoryError("2 GiB")))
    samples = [begun(family, edit_job(name, prompt=name)) for name in ("a", "b", "c", "large", "e")]
    failures = stepped(runner_of(family), family, samples)
    assert [type(failure) for failure in failures] == [type(None)] * 3 + [DeviceOutOfMemory, type(None)]
    assert sizes(family, "denoiser") == [4, 2, 2, 1, 1, 1]


def test_a_batch_of_a_fixed_size_is_tried_again_as_it_is():
    family = FakeFamily(Fault("large", "denoiser", torch.OutOfMemoryError("2 GiB"), times=1), backend=fixed_size())
    runner = runner_of(family)
    jobs = [edit_job(name, prompt=name, steps=1) for name in ("a", "large")]
    samples = [begun(family, job) for job in jobs]
    assert stepped(runner, family, samples) == [None, None]
    assert sizes(family, "denoiser") == [4, 4]
    assert runner.counters.out_of_memory == 1
    assert [latents(sample) for sample in samples] == [drawn_alone(job, 1, BUCKET)[1] for job in jobs]


def test_nothing_of_a_call_that_found_no_memory_is_held_when_it_is_repeated():
    """What it was given and what it had made by then is most of the memory that there is."""
    family = FakeFamily()
    hoarding = HoardingComponent(family.denoiser)
    family.denoiser = hoarding
    assert stepped(runner_of(family), family, [begun(family, edit_job(name)) for name in "ab"]) == [None, None]
    assert hoarding.left == [[False, False]] * 2


class HoardingComponent:
    """Runs out of memory in its first call. left: in each later one, what is still there of that call's tensors."""

    def __init__(self, component: Component) -> None:
        self.spec = component.spec
        self.left: list[list[bool]] = []
        self._component = component
        self._held: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not self._held:
            made = torch.zeros(9)
            self._held = [weakref.ref(made), weakref.ref(inputs["text"])]
            raise DeviceOutOfMemory("no room")
        self.left.append([held() is not None for held in self._held])
        return self._component(inputs)


@pytest.mark.parametrize("component", ["text_encoder", "decoder"])
def test_encodings_and_decodes_that_do_not_fit_run_in_halves(component: ComponentName):
    family = FakeFamily(backend=FakeBackend(fits={component: 2}))
    runner = runner_of(family)
    jobs = [edit_job(f"{i}", prompt=f"as in {i}") for i in range(4)]
    samples = [begun(family, job) for job in jobs]
    family.log.clear()
    texts = runner.run([family.encode_text(job.prompt) for job in jobs])
    pictures = runner.run([family.decode(sample) for sample in samples])
    assert sizes(family, component) == [4, 2, 2]
    assert not any(isinstance(one, Exception) for one in (*texts, *pictures))


def test_the_filler_of_a_batch_does_not_spoil_those_after_it():
    """Seats without a row hold the numbers of an earlier one, and those may be anything."""
    family = FakeFamily(Fault("poison", "nan in denoiser"), backend=fixed_size())
    runner = runner_of(family)
    poison = begun(family, edit_job("poison", prompt="poison"))
    assert isinstance(stepped(runner, family, [begun(family, edit_job("x")), poison])[1], NotFinite)
    job = edit_job("it", 7)
    sample = begun(family, job)
    while sample.remaining:
        assert stepped(runner, family, [sample]) == [None]
    assert latents(sample) == drawn_alone(job, 7, BUCKET)[1]


def test_inputs_that_are_no_batch_fail_their_own_stage():
    family = FakeFamily()

    def wrong() -> Stage[None]:
        yield (Call(family.text_encoder, {"words": torch.zeros(1, 3), "who": torch.zeros(1, dtype=torch.int64)}),)

    run_alone(family.encode_text("known"))
    stages: list[Stage[object]] = [wrong(), family.encode_text("red")]
    failure, text = runner_of(family).run(stages)
    assert isinstance(failure, ValueError)
    assert not isinstance(text, Exception)
