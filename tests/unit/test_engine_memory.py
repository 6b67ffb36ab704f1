"""A device with little memory: rows wait for room, calls that find none are repeated smaller, and everyone ends."""

import numpy as np
import pytest
import torch

from serve.errors import DeviceOutOfMemory, InternalError, InvalidRequest
from serve.types import EditJob
from tests.fake_backend import FakeBackend, FakeMemory, fixed_size
from tests.fake_family import ComponentName, FakeFamily, Fault, begun, drawn_alone, edit_job
from tests.running_engine import engine_of, error_of, known_costs, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.waiting import eventually

JOB = edit_job("like all")
ROW_BYTES = begun(FakeFamily(), JOB).nbytes
USED_BYTES = 10**6
"""By the model's weights."""


def device(room_bytes: float, faults: tuple[Fault, ...] = ()) -> FakeFamily:
    """Over a backend that has so much room beside the weights, once a tenth is set aside."""
    memory = FakeMemory(capacity=int((USED_BYTES + room_bytes) / 0.9) + 1, used=USED_BYTES)
    return FakeFamily(*faults, backend=FakeBackend(memory=memory))


def most_held(family: FakeFamily) -> int:
    """Rows that were begun and not decoded, at most, as far as the calls of the denoiser tell."""
    seen: set[str] = set()
    decoded = 0
    most = 0
    for component, names in family.log:
        seen |= set(names) if component == "denoiser" else set()
        decoded += len(names) * (component == "decoder")
        most = max(most, len(seen) - decoded)
    return most


def drawn(
    family: FakeFamily, jobs: list[EditJob], row_bytes: float | None = None, peak_bytes: float | None = None
) -> None:
    engine = engine_of(family, profile=known_costs(family, JOB, row_bytes=row_bytes, peak_bytes=peak_bytes))
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        for job, future in zip(jobs, futures, strict=True):
            for seed, image in zip(job.seeds, result_of(future).images, strict=True):
                np.testing.assert_array_equal(image, drawn_alone(job, seed)[0])


# Admission


@pytest.mark.parametrize("fit", [1, 2, 3])
def test_rows_wait_while_the_memory_is_filled_and_all_end(fit: int):
    family = device(room_bytes=fit * ROW_BYTES + 100)
    jobs = [edit_job(f"{i}", i, 100 + i, prompt=f"as in {i}", steps=1 + i % 5) for i in range(6)]
    drawn(family, jobs, row_bytes=ROW_BYTES, peak_bytes=100)
    assert most_held(family) == fit


def test_rows_of_other_sizes_wait_for_the_same_memory_and_all_end():
    family = device(room_bytes=3.5 * ROW_BYTES)
    jobs = [edit_job(f"{i}", i, side=(8, 10, 4)[i % 3], steps=1 + i % 4) for i in range(12)]
    drawn(family, jobs, row_bytes=ROW_BYTES)
    assert 1 < most_held(family) <= 9


def test_a_batch_is_as_large_as_the_memory_beside_its_rows_allows():
    family = device(room_bytes=4 * ROW_BYTES + 250)
    profile = known_costs(family, JOB, row_bytes=ROW_BYTES)
    plan = family.plan(JOB)
    for passes in (1, 4):
        profile.peak_bytes.measured(plan.key, plan.tokens, passes, 100.0 * passes)
    engine = engine_of(family, profile=profile)
    futures = [engine.submit(edit_job(f"{i}", i)) for i in range(4)]
    with running(engine):
        for future in futures:
            result_of(future)
    # The four rows are begun, and leave room for what runs over two of them.
    assert [len(call) for call in family.calls("denoiser")] == [2] * 8


def test_an_edit_that_can_never_fit_is_refused_at_once():
    family = device(room_bytes=ROW_BYTES)
    profile = known_costs(family, JOB, row_bytes=ROW_BYTES, peak_bytes=10)
    with running(engine_of(family, profile=profile)) as engine:
        with pytest.raises(InvalidRequest, match="8x8 with 0 references needs more memory than the device") as refused:
            engine.submit(JOB)
        assert len(result_of(engine.submit(edit_job("smaller", side=4))).images) == 1
    assert refused.value.param == "size"


def test_a_row_that_ends_without_a_result_makes_room_for_the_next():
    family = device(room_bytes=ROW_BYTES, faults=(Fault("bad", "stepped", step=1), Fault("worse", "decode")))
    engine = engine_of(family, profile=known_costs(family, JOB, row_bytes=ROW_BYTES))
    leaving, *failing = (engine.submit(edit_job(name, prompt=name)) for name in ("leaving", "bad", "worse"))
    staying = engine.submit(edit_job("staying"))
    with running(engine):
        eventually(lambda: engine.stats().steps > 0)
        leaving.cancel()
        assert [type(error_of(future)) for future in failing] == [InternalError] * 2
        assert len(result_of(staying).images) == 1


def test_a_row_that_nobody_knows_the_size_of_is_taken():
    family = device(room_bytes=1)
    drawn(family, [edit_job("a"), edit_job("b")])
    assert most_held(family) == 1


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_stats_tell_the_memory_and_what_of_it_may_be_filled(backend: FakeBackend):
    backend.memory = FakeMemory(capacity=1000, used=300)
    stats = engine_of(FakeFamily(backend=backend), memory_share=0.5).stats()
    assert (stats.memory_used_bytes, stats.memory_peak_bytes, stats.memory_budget_bytes) == (300, 300, 500)


# Out of memory


def test_a_batch_that_finds_no_memory_runs_in_halves_and_those_after_it_are_smaller():
    family = FakeFamily(backend=FakeBackend(fits={"denoiser": 3}))
    jobs = [edit_job(f"{i}", i, prompt=f"as in {i}", picture=i, steps=3) for i in range(4)]
    engine = engine_of(family)
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        for job, future in zip(jobs, futures, strict=True):
            np.testing.assert_array_equal(result_of(future).images[0], drawn_alone(job, job.seeds[0])[0])
        stats = engine.stats()
    assert [len(call) for call in family.calls("denoiser")] == [4, 2, 2] + [2] * 4
    assert stats.out_of_memory == 1
    assert [family.final_latents[f"{i}:{i}"] for i in range(4)] == [drawn_alone(job, job.seeds[0])[1] for job in jobs]


def test_a_row_that_finds_no_memory_alone_fails_and_its_neighbours_end():
    family = FakeFamily(Fault("large", "denoiser", torch.OutOfMemoryError("2 GiB"), step=1))
    engine = engine_of(family)
    names = ("a", "b", "beside", "large")
    jobs = {name: edit_job(name, prompt=name, steps=3) for name in names}
    futures = {name: engine.submit(job) for name, job in jobs.items()}
    with running(engine):
        error = error_of(futures["large"])
        for name in ("a", "b", "beside"):
            np.testing.assert_array_equal(result_of(futures[name]).images[0], drawn_alone(jobs[name], 1)[0])
        result_of(engine.submit(edit_job("later")))
        assert engine.healthy()
    assert (type(error), error.status, error.retryable) == (DeviceOutOfMemory, 503, True)


def test_a_batch_of_a_fixed_size_that_finds_no_memory_is_repeated_as_it_is():
    family = FakeFamily(
        Fault("bad day", "denoiser", torch.OutOfMemoryError("2 GiB"), step=1, times=1), backend=fixed_size()
    )
    engine = engine_of(family)
    jobs = [edit_job("a", 1, 2), edit_job("b", 3, prompt="bad day")]
    futures = [engine.submit(job) for job in jobs]
    with running(engine):
        for job, future in zip(jobs, futures, strict=True):
            for seed, image in zip(job.seeds, result_of(future).images, strict=True):
                np.testing.assert_array_equal(image, drawn_alone(job, seed, 4)[0])
        assert engine.stats().out_of_memory == 1
    assert [len(call) for call in family.calls("denoiser")] == [4] * 5


@pytest.mark.parametrize("component", ["text_encoder", "image_encoder", "decoder"])
def test_encoding_and_decoding_that_find_no_memory_run_in_halves(component: ComponentName):
    family = FakeFamily(backend=FakeBackend(fits={component: 2}))
    drawn(family, [edit_job(f"{i}", i, prompt=f"as in {i}", picture=i, steps=1) for i in range(4)])
    assert [len(call) for call in family.calls(component)] == [4, 2, 2]


@pytest.mark.parametrize("component", ["text_encoder", "image_encoder", "decoder"])
def test_encoding_and_decoding_that_found_no_memory_are_smaller_from_then_on(component: ComponentName):
    family = FakeFamily(backend=FakeBackend(fits={component: 1}))
    engine = engine_of(family)
    jobs = [edit_job(f"{i}", i, prompt=f"as in {i}", picture=i, steps=1) for i in range(8)]
    futures = [engine.submit(job) for job in jobs[:4]]
    with running(engine):
        for later in (jobs[4:], []):
            for future in futures:
                result_of(future)
            futures = [engine.submit(job) for job in later]
    assert [len(call) for call in family.calls(component)] == [4, 2, 1, 1, 2, 1, 1] + [1] * 4


@pytest.mark.parametrize(("component", "stage"), [("image_encoder", "encode_bytes"), ("decoder", "decode_bytes")])
def test_so_many_are_encoded_and_decoded_together_as_there_is_room_for(component: ComponentName, stage: str):
    family = device(room_bytes=4 * ROW_BYTES + 250)
    profile = known_costs(family, JOB, row_bytes=ROW_BYTES)
    plan = family.plan(JOB)
    getattr(profile, stage).measured(plan.key, plan.tokens, 1, 100.0)
    engine = engine_of(family, profile=profile)
    futures = [engine.submit(edit_job(f"{i}", i, picture=i, steps=1)) for i in range(4)]
    with running(engine):
        for future in futures:
            result_of(future)
        assert engine.stats().out_of_memory == 0
    assert max(len(call) for call in family.calls(component)) == {"decoder": 2, "image_encoder": 4}[component]


@pytest.mark.parametrize("component", ["text_encoder", "decoder"])
@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_a_job_for_which_there_is_no_memory_may_be_tried_again(component: ComponentName, backend: FakeBackend):
    family = FakeFamily(Fault("bad", component, torch.OutOfMemoryError("2 GiB")), backend=backend)
    with running(engine_of(family)) as engine:
        error = error_of(engine.submit(edit_job("bad", prompt="bad")))
        result_of(engine.submit(edit_job("later")))
        assert engine.healthy()
        assert engine.stats().out_of_memory == 1
    assert (type(error), error.retryable) == (DeviceOutOfMemory, True)
    assert len([call for call in family.calls(component) if "bad" in call[0]]) == 2
