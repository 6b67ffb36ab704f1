"""What the engine counts of its time, its queue and its batches, against what it tells of each edit."""

import pytest

from serve.types import EditResult
from tests.fake_backend import FakeBackend, FakeMemory
from tests.fake_family import FakeFamily, begun, edit_job
from tests.gates import Gate
from tests.running_engine import engine_of, known_costs, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself


def seconds(results: list[EditResult], stage: str) -> float:
    return sum(result.timings_ms[stage] for result in results) / 1000


def test_the_waits_of_edits_add_up_to_what_their_answers_tell():
    engine = engine_of(FakeFamily(), max_batch=1)
    futures = [engine.submit(edit_job(f"{i}", i, 10 + i, steps=2)) for i in range(3)]
    with running(engine):
        results = [result_of(future) for future in futures]
        stats = engine.stats()
    assert stats.begun_jobs == 3
    assert stats.waited_s == pytest.approx(seconds(results, "queue"))


def test_an_edit_that_was_dropped_before_its_first_step_has_not_begun():
    gate = Gate()
    with running(engine_of(FakeFamily(step_gate=gate), max_batch=1), gate) as engine:
        engine.submit(edit_job("runs", steps=2))
        gate.wait()
        engine.submit(edit_job("waits")).cancel()
        gate.open()
        result_of(engine.submit(edit_job("last")))
        assert engine.stats().begun_jobs == 2


def test_the_time_of_each_stage_is_that_of_the_edits_that_were_alone_in_it():
    with running(engine_of(FakeFamily())) as engine:
        results = [result_of(engine.submit(edit_job(f"{i}", i, picture=i, steps=1))) for i in range(3)]
        stats = engine.stats()
    assert stats.encode_s == pytest.approx(seconds(results, "encode"))
    assert stats.steps_s == pytest.approx(seconds(results, "denoise"))
    assert stats.decode_s == pytest.approx(seconds(results, "vae"))
    assert stats.preview_s == 0


def test_previews_have_a_time_of_their_own():
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(edit_job("a", steps=4, previews=2), watch=lambda _: None))
        assert engine.stats().preview_s > 0


def test_before_the_first_batch_nothing_is_known_of_batches():
    stats = engine_of(FakeFamily()).stats()
    assert (stats.knee_passes, stats.limit_passes) == (0, 0)


@pytest.mark.parametrize(("room_rows", "limit"), [(10, 4), (3, 2)])
def test_a_batch_may_be_as_large_as_gains_something_or_as_there_is_memory_for(room_rows: int, limit: int):
    job, used = edit_job("a"), 10**6
    row_bytes = begun(FakeFamily(), job).nbytes
    memory = FakeMemory(capacity=int((used + room_rows * row_bytes) / 0.9) + 1, used=used)
    gate = Gate()
    family = FakeFamily(step_gate=gate, backend=FakeBackend(memory=memory))
    profile = known_costs(family, job, step_s=1.0, row_bytes=row_bytes, peak_bytes=row_bytes)
    profile.peak_bytes.measured(family.plan(job).key, family.plan(job).tokens, 4, 4.0 * row_bytes)
    with running(engine_of(family, profile=profile), gate) as engine:
        future = engine.submit(job)
        gate.wait()
        stats = engine.stats()
        assert (stats.knee_passes, stats.limit_passes) == (4, limit)
        assert stats.memory_held_bytes == row_bytes
        gate.open()
        result_of(future)
        assert engine.stats().memory_held_bytes == 0
