"""What is told of a job on its way: its place, each step of each row, and pictures of what it will be."""

import logging
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.watch import Event, preview_steps
from serve.errors import Overloaded
from serve.types import Preview, Progress, QueuePlace
from tests.fake_family import FakeFamily, Fault, begun, edit_job
from tests.gates import Gate
from tests.running_engine import engine_of, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.stages import run_alone
from tests.waiting import eventually


def _previews(events: list[Event]) -> list[Preview]:
    return [event for event in events if isinstance(event, Preview)]


def test_a_watcher_is_told_the_place_first_and_then_every_step_of_every_row():
    events: list[Event] = []
    with running(engine_of(FakeFamily())) as engine:
        result = result_of(engine.submit(edit_job("a", 1, 2, steps=3), watch=events.append))
    assert events[0] == result.place == QueuePlace(0, result.place.seconds)
    assert sorted((event.image, event.step, event.total) for event in events[1:] if isinstance(event, Progress)) == [
        (image, step, 3) for image in (0, 1) for step in (1, 2, 3)
    ]
    assert len(events) == 7


def test_a_job_that_asks_for_previews_gets_them_spaced_over_its_steps():
    events: list[Event] = []
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(edit_job("a", 1, steps=8, previews=3), watch=events.append))
    at = [events[place - 1] for place, event in enumerate(events) if isinstance(event, Preview)]
    assert [event.step for event in at if isinstance(event, Progress)] == [2, 4, 6]
    assert [(preview.image, preview.index) for preview in _previews(events)] == [(0, 0), (0, 1), (0, 2)]


def test_a_preview_is_what_the_step_took_the_clean_picture_for():
    job, events = edit_job("a", 5, steps=4, previews=1), list[Event]()
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(job, watch=events.append))
    family = FakeFamily()
    sample = begun(family, job)
    run_alone(family.step(sample))
    before, sigma = sample.latents, sample.sigmas[1]
    run_alone(family.step(sample))
    velocity = (sample.latents - before) / (sample.sigmas[2] - sigma)
    sample.latents = before - sigma * velocity
    (preview,) = _previews(events)
    difference = preview.pixels.astype(int) - run_alone(family.decode(sample))
    assert np.abs(difference).max() <= 1  # the velocity was taken back out of a rounded sum


def test_each_row_has_its_own_previews():
    events: list[Event] = []
    with running(engine_of(FakeFamily())) as engine:
        result_of(engine.submit(edit_job("a", 1, 2, steps=4, previews=1), watch=events.append))
    first, second = sorted(_previews(events), key=lambda preview: preview.image)
    assert (first.image, second.image) == (0, 1)
    assert not np.array_equal(first.pixels, second.pixels)


def test_previews_change_nothing_about_the_result():
    results = [edit_job("a", 7, steps=4, previews=previews) for previews in (0, 3)]
    with running(engine_of(FakeFamily())) as engine:
        plain, shown = (result_of(engine.submit(job, watch=lambda event: None)) for job in results)
    np.testing.assert_array_equal(plain.images[0], shown.images[0])


def test_a_job_that_nobody_watches_is_not_shown():
    family = FakeFamily()
    with running(engine_of(family)) as engine:
        result_of(engine.submit(edit_job("a", 1, steps=4, previews=3)))
    assert len(family.calls("decoder")) == 1


def test_a_preview_that_fails_is_left_out_and_the_edit_goes_on():
    events: list[Event] = []
    with running(engine_of(FakeFamily(Fault("make it blue", "preview", times=1)))) as engine:
        assert len(result_of(engine.submit(edit_job("a", 1, steps=6, previews=2), watch=events.append)).images) == 1
    assert [preview.index for preview in _previews(events)] == [1]


def test_a_watcher_that_fails_is_told_no_more_and_its_edit_goes_on(caplog: pytest.LogCaptureFixture):
    told: list[Event] = []

    def watch(event: Event) -> None:
        told.append(event)
        if isinstance(event, Progress):
            raise RuntimeError("gone")

    with running(engine_of(FakeFamily())) as engine, caplog.at_level(logging.ERROR):
        assert len(result_of(engine.submit(edit_job("a", 1, steps=4), watch=watch)).images) == 1
        assert len(result_of(engine.submit(edit_job("b", 1, steps=1))).images) == 1
    assert len(told) == 2
    assert "the watcher of request a failed" in caplog.text


def test_a_job_that_is_refused_tells_nothing():
    events: list[Event] = []
    engine = engine_of(FakeFamily(), max_queued_rows=1)
    engine.submit(edit_job("first", 1))
    with pytest.raises(Overloaded):
        engine.submit(edit_job("a", 1, 2), watch=events.append)
    assert not events


def test_a_job_that_is_cancelled_is_told_no_more():
    gate, events, stepped = Gate(), list[Event](), threading.Event()
    with running(engine_of(FakeFamily(step_gate=gate)), gate) as engine:
        future = engine.submit(edit_job("a", 1, steps=50), watch=events.append)
        gate.wait()
        future.cancel()
        gate.open()
        eventually(lambda: engine.stats().running_rows == 0)
        result_of(engine.submit(edit_job("b", 1, steps=1), watch=lambda event: stepped.set()))
    assert stepped.is_set()
    assert len(events) <= 2


@given(st.integers(1, 100), st.integers(0, 3))
def test_previews_are_at_most_those_asked_for_and_between_the_first_step_and_the_last(steps: int, previews: int):
    at = preview_steps(steps, previews)
    assert len(at) <= previews
    assert list(at) == sorted(set(at))
    assert all(0 < step < steps for step in at)
    assert len(at) == previews or steps <= previews
