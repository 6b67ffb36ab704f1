"""Between two steps: who is encoded, who joins, what is decoded, and that rows in the batch are hardly held up."""

import gc
import hashlib
import time
from collections.abc import Hashable
from concurrent.futures import wait
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from serve.engine.curves import Curves
from serve.engine.profile import Profile
from serve.types import EditJob
from tests.fake_backend import FakeBackend, fixed_size
from tests.fake_family import FakeFamily, Fault, drawn_alone, edit_job, picture_name
from tests.gates import TIMEOUT_S, Gate
from tests.running_engine import MAX_BATCH, engine_of, known_costs, result_of, running
from tests.running_engine import one_kernel_thread as one_kernel_thread  # noqa: PLC0414 - a fixture that applies itself
from tests.waiting import eventually

NEVER_AFFORDABLE_S = 1e9
"""A decode or an encoding that is expected to take so long fits no time between two steps."""

FOUR_JOBS = [edit_job(f"{i}", i, prompt=f"as in {i}", picture=i, steps=1) for i in range(4)]


class Unmoved(Curves):
    """Learns nothing from what is run."""

    def learned(self, key: Hashable, tokens: int, passes: int, value: float) -> None: ...


def never_affordable(family: FakeFamily, job: EditJob, *, encode: bool = False, decode: bool = False) -> Profile:
    """A profile in which encoding or decoding one row like the job's takes too long, however quick it turns out."""
    profile = Profile(MAX_BATCH, fixed=not family.backend.batch_invariant, encode_s=Unmoved(), decode_s=Unmoved())
    plan = family.plan(job)
    for curve, told in ((profile.encode_s, encode), (profile.decode_s, decode)):
        if told:
            curve.measured(plan.key, plan.tokens, 1, NEVER_AFFORDABLE_S)
    return profile


def drawn(family: FakeFamily) -> None:
    engine = engine_of(family)
    futures = [engine.submit(job) for job in FOUR_JOBS]
    with running(engine):
        for job, future in zip(FOUR_JOBS, futures, strict=True):
            bucket = 0 if family.backend.batch_invariant else 4
            np.testing.assert_array_equal(result_of(future).images[0], drawn_alone(job, job.seeds[0], bucket)[0])


# Encoding


def test_jobs_that_join_together_are_encoded_and_decoded_together():
    family = FakeFamily()
    drawn(family)
    rows = tuple(f"{i}:{i}" for i in range(4))
    assert family.log == [
        ("text_encoder", tuple(job.prompt for job in FOUR_JOBS)),
        ("image_encoder", tuple(picture_name(job.canvas) for job in FOUR_JOBS)),
        ("denoiser", rows),
        ("decoder", rows),
    ]


def test_jobs_that_join_together_are_encoded_and_decoded_one_by_one_where_their_bytes_would_change():
    family = FakeFamily(backend=fixed_size())
    drawn(family)
    assert family.calls("text_encoder") == [(job.prompt,) for job in FOUR_JOBS]
    assert family.calls("image_encoder") == [(picture_name(job.canvas),) for job in FOUR_JOBS]
    assert family.calls("denoiser") == [tuple(f"{i}:{i}" for i in range(4))]
    assert family.calls("decoder") == [(f"{i}:{i}",) for i in range(4)]


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_equal_prompts_and_pictures_that_come_together_are_encoded_once(backend: FakeBackend):
    family = FakeFamily(backend=backend)
    engine = engine_of(family)
    futures = [engine.submit(edit_job(f"{i}", i)) for i in range(4)]
    with running(engine):
        for future in futures:
            result_of(future)
        stats = engine.stats()
    assert (stats.text_misses, stats.image_misses) == (1, 1)
    assert [len(family.calls("text_encoder")), len(family.calls("image_encoder"))] == [1, 1]


def test_jobs_whose_encodings_are_kept_join_together():
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    job = edit_job("a", steps=9)
    profile = never_affordable(family, job, encode=True)
    with running(engine_of(family, profile=profile), gate) as engine:
        engine.submit(job)
        gate.wait()
        for name in "bcd":
            engine.submit(edit_job(name, steps=9))
        assert set(gate.step()) == {"a:1", "b:1", "c:1", "d:1"}


def test_one_job_is_encoded_at_a_boundary_where_there_is_time_for_no_more():
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    job = edit_job("a", steps=9)
    profile = never_affordable(family, job, encode=True)
    with running(engine_of(family, profile=profile), gate) as engine:
        engine.submit(job)
        joined = [gate.wait()]
        for i in range(3):
            engine.submit(edit_job(f"{i}", prompt=f"as in {i}", steps=9))
        joined += [gate.step() for _ in range(3)]
    assert [len(names) for names in joined] == [1, 2, 3, 4]


def test_a_row_that_comes_while_others_run_joins_at_the_next_step():
    """Where batches are filled up, so that no measured time of a step makes them smaller than four."""
    gate = Gate()
    family = FakeFamily(step_gate=gate, backend=fixed_size())
    job = edit_job("a", steps=50)
    profile = never_affordable(family, job, encode=True, decode=True)
    with running(engine_of(family, profile=profile), gate) as engine:
        engine.submit(job)
        gate.wait()
        for i in range(10):
            engine.submit(edit_job(f"{i}", prompt=f"as in {i}", picture=i, steps=2))
            names = gate.step()
            assert {"a:1", f"{i}:1"} <= set(names)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "new"])
def test_a_picture_is_read_once_however_long_it_waits_for_its_encoding(monkeypatch: pytest.MonkeyPatch, kept: bool):
    read = Mock(wraps=hashlib.blake2b)
    monkeypatch.setattr(hashlib, "blake2b", read)
    family = FakeFamily()
    job = edit_job("a", steps=20)
    engine = engine_of(family, max_batch=8, profile=never_affordable(family, job, encode=True))
    futures = [engine.submit(job)]
    futures += [
        engine.submit(edit_job(f"{i}", prompt=f"as in {i}", picture=0 if kept else i, steps=20)) for i in range(6)
    ]
    with running(engine):
        for future in futures:
            result_of(future)
    assert len(family.calls("text_encoder")) == 7
    assert read.call_count == 7


def test_reading_new_pictures_takes_of_the_same_time_as_encoding_and_decoding(monkeypatch: pytest.MonkeyPatch):
    """Where it takes it all, pictures that are quick to decode wait for the next boundary."""
    ahead_s, monotonic, blake2b = [0.0], time.monotonic, hashlib.blake2b

    def slow(*arguments: Any, **named: Any) -> Any:
        ahead_s[0] += 100.0
        return blake2b(*arguments, **named)

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead_s[0])
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    long = edit_job("long", steps=50)
    engine = engine_of(family, profile=known_costs(family, long, decode_s=0.0))
    futures = [engine.submit(long), *(engine.submit(edit_job(name, steps=1)) for name in "abc")]
    with running(engine, gate):
        gate.wait()
        monkeypatch.setattr(hashlib, "blake2b", slow)
        engine.submit(edit_job("new", picture=1, steps=50))
        gate.step()
        monkeypatch.setattr(hashlib, "blake2b", blake2b)
        gate.step()
        for future in futures[1:]:
            result_of(future)
    assert family.decodes_before_steps()[:3] == [0, 0, 3]


# Decoding


def test_one_row_is_decoded_at_a_boundary_and_at_most_a_batch_of_finished_rows_piles_up():
    job = edit_job("a", *range(16), steps=1)
    family = FakeFamily()
    with running(engine_of(family, profile=never_affordable(family, job, decode=True))) as engine:
        result_of(engine.submit(job))
    # Four rows finish with each call: one of the first four is decoded, then all but four.
    assert family.decodes_before_steps() == [0, 1, 4, 8]


def test_a_long_queue_of_decodes_does_not_stall_the_steps():
    """Half of the seats go to a long edit, the others to short ones, of which two are done with each step."""
    short, long = edit_job("short", *range(40), steps=1), edit_job("long", 1, 2, steps=30)
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    with running(engine_of(family, profile=never_affordable(family, long, decode=True)), gate) as engine:
        futures = [engine.submit(long)]
        gate.wait()
        futures += [engine.submit(short)]
        gate.open()
        for future in futures:
            result_of(future)
    decoded = family.decodes_before_steps()
    assert max(after - before for before, after in pairwise(decoded)) <= 4
    assert max(done - before for done, before in zip(finished_before_steps(family), decoded, strict=True)) <= 4


def finished_before_steps(family: FakeFamily) -> list[int]:
    """For each call of the denoiser, how many rows had run their last step by then, where short ones run only one."""
    ended = [sum(name.startswith("short") for name in call) for call in family.calls("denoiser")]
    return [sum(ended[:step]) for step in range(len(ended))]


def test_a_finished_row_waits_for_encodings_of_others_for_two_steps_and_no_longer():
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    long = edit_job("long", steps=50)
    profile = never_affordable(family, long, decode=True)
    engine = engine_of(family, max_batch=8, profile=profile)
    done = [engine.submit(long), engine.submit(edit_job("done", steps=1))][1]
    with running(engine, gate):
        gate.wait()
        for i in range(3):
            assert not done.done()
            engine.submit(edit_job(f"{i}", prompt=f"as in {i}", steps=50))
            gate.step()
        result_of(done)
    assert family.decodes_before_steps()[:4] == [0, 0, 0, 1]


def test_pictures_that_are_quick_to_decode_do_not_wait_for_each_other():
    """Where a decode is expected to cost nothing, all that have finished are decoded at the next boundary."""
    gate = Gate()
    family = FakeFamily(step_gate=gate)
    long = edit_job("long", steps=50)
    engine = engine_of(family, profile=known_costs(family, long, decode_s=0.0))
    futures = [engine.submit(long), *(engine.submit(edit_job(name, steps=1)) for name in "abc")]
    with running(engine, gate):
        gate.wait()
        gate.step()
        for future in futures[1:]:
            result_of(future)
    assert family.decodes_before_steps()[1] == 3
    assert family.calls("decoder")[0] == ("a:1", "b:1", "c:1")


def test_rows_of_another_size_are_decoded_for_themselves():
    family = FakeFamily()
    engine = engine_of(family)
    futures = [engine.submit(edit_job(f"{i}", side=8 + 4 * (i % 2), steps=1)) for i in range(4)]
    with running(engine):
        for future in futures:
            result_of(future)
    assert {frozenset(call) for call in family.calls("decoder")} <= {
        frozenset(names) for names in (["0:1", "2:1"], ["1:1", "3:1"], ["0:1"], ["1:1"], ["2:1"], ["3:1"])
    }


def test_a_picture_that_is_drawn_holds_no_memory_while_others_of_its_job_are():
    gate = Gate()
    family = FakeFamily(decode_gate=gate)
    with running(engine_of(family, max_batch=2), gate) as engine:
        engine.submit(edit_job("a", *range(6), steps=2))
        drawn_first, _ = gate.wait(), gate.step()
        gc.collect()
        assert [made() is None for made in family.made[:2]] == [True, True]
    assert drawn_first == ("a:0", "a:1")


# Idle


@pytest.mark.parametrize("backend", [FakeBackend(), fixed_size()], ids=["any", "fixed"])
def test_an_idle_engine_holds_on_to_no_row_however_it_ended(backend: FakeBackend):
    family = FakeFamily(Fault("poison", "nan in denoiser", step=2), backend=backend)

    def nothing_is_left() -> bool:
        gc.collect()
        return all(made() is None for made in family.made)

    with running(engine_of(family)) as engine:
        for i in range(3):
            futures = [engine.submit(job) for job in jobs_of_all_kinds(f"{i}")]
            eventually(lambda: len(family.made) > 0)
            futures[0].cancel()
            wait(futures, TIMEOUT_S)
            eventually(nothing_is_left)
            assert engine.healthy()
            family.made.clear()


def jobs_of_all_kinds(name: str) -> list[EditJob]:
    jobs = [edit_job(f"{name} {i}", i, guidance=1 + i % 2, side=8 + 4 * (i % 2)) for i in range(6)]
    return [edit_job(f"{name} leaves", steps=5000), *jobs, edit_job(f"{name} poison", prompt="poison")]
