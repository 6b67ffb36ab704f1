"""What is kept of a job for whoever follows it: when it was where, whichever way it ends."""

from itertools import pairwise

from serve.engine.trail import MOST_STEPS, Trail
from tests.fake_family import FakeFamily, Fault, edit_job
from tests.gates import Gate
from tests.running_engine import engine_of, error_of, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself


def test_a_trail_leads_from_the_queue_to_the_picture():
    trail = Trail()
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(edit_job("a", 1, steps=3), trail=trail))
    assert trail.submitted_s is not None
    assert trail.encoded is not None
    assert trail.denoised is not None
    assert trail.decoded is not None
    times = (trail.submitted_s, *trail.encoded, *trail.denoised, *trail.decoded)
    assert all(before <= after for before, after in pairwise(times))
    assert [(step.rows, step.batch) for step in trail.steps] == [(1, 1)] * 3


def test_a_step_tells_the_rows_of_the_job_and_of_its_company():
    gate, trail = Gate(), Trail()
    with running(engine_of(FakeFamily(step_gate=gate))) as engine:
        beside = engine.submit(edit_job("beside", 9, steps=3))
        gate.wait()
        followed = engine.submit(edit_job("a", 1, 2, steps=2), trail=trail)
        gate.open()
        result_of(beside)
        result_of(followed)
    assert [(step.rows, step.batch) for step in trail.steps] == [(2, 3)] * 2


def test_a_job_that_fails_leaves_its_trail_up_to_there():
    trail = Trail()
    with running(engine_of(FakeFamily(Fault("bad", "denoiser", step=2)))) as engine:
        error_of(engine.submit(edit_job("a", 1, steps=4, prompt="bad"), trail=trail))
    assert len(trail.steps) == 3
    assert trail.encoded is not None
    assert trail.decoded is None


def test_a_job_that_is_cancelled_leaves_its_trail_up_to_there():
    gate, trail = Gate(), Trail()
    with running(engine_of(FakeFamily(step_gate=gate))) as engine:
        future = engine.submit(edit_job("a", 1, steps=50), trail=trail)
        gate.wait()
        gate.step()
        future.cancel()
        gate.open()
        result_of(engine.submit(edit_job("later", 1)))
    assert len(trail.steps) == 2
    assert trail.decoded is None


def test_more_steps_than_are_kept_are_counted():
    trail = Trail()
    for step in range(MOST_STEPS + 3):
        trail.stepped((float(step), step + 1.0), rows=1, batch=1)
    assert (len(trail.steps), trail.steps_left_out) == (MOST_STEPS, 3)
    assert trail.denoised == (0.0, MOST_STEPS + 3.0)
