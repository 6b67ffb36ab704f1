"""The scheduler against a plain model of what rows are, over many orders of events."""

import random
from collections import Counter
from dataclasses import dataclass

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve.engine.scheduler import Batch, Scheduler

STRETCH = 2.0


def begun(scheduler: Scheduler, row: int, steps: int, key: str = "k", width: int = 1) -> None:
    scheduler.add(row, steps)
    scheduler.begin(row, key=key, steps=steps, width=width)


def ran(scheduler: Scheduler) -> tuple[int, ...]:
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.advance(batch)
    return batch.rows


def scheduler_of(max_batch: int, resident_rows: int = 16, stretch: float = STRETCH) -> Scheduler:
    return Scheduler(max_batch=max_batch, resident_rows=resident_rows, stretch=stretch)


def test_the_row_with_the_least_left_to_do_runs_first():
    scheduler = scheduler_of(max_batch=1)
    begun(scheduler, 0, steps=5)
    begun(scheduler, 1, steps=2)
    assert [ran(scheduler) for _ in range(7)] == [(1,)] * 2 + [(0,)] * 5


def test_rows_of_equal_work_run_in_the_order_they_came():
    scheduler = scheduler_of(max_batch=2)
    for row in range(4):
        begun(scheduler, row, steps=1)
    assert [ran(scheduler), ran(scheduler)] == [(0, 1), (2, 3)]


def test_passes_count_as_work():
    scheduler = scheduler_of(max_batch=2)
    begun(scheduler, 0, steps=3, width=2)
    begun(scheduler, 1, steps=5, width=1)
    assert ran(scheduler) == (1,)


def test_a_long_row_yields_to_short_ones_only_until_it_is_due():
    scheduler = scheduler_of(max_batch=1)
    begun(scheduler, 0, steps=4)
    order: list[int] = []
    for row in range(1, 20):
        begun(scheduler, row, steps=1)
        order += ran(scheduler)
    # It is due at tick 8. A row of one step that comes at tick t is due at t + 2: those until tick 5 go before it.
    assert order[:10] == [1, 2, 3, 4, 5, 6, 0, 0, 0, 0]


def test_stretch_zero_is_first_come_first_served():
    scheduler = scheduler_of(max_batch=1, stretch=0)
    begun(scheduler, 0, steps=3)
    begun(scheduler, 1, steps=1)
    assert [ran(scheduler) for _ in range(4)] == [(0,), (0,), (0,), (1,)]


def test_a_batch_has_the_key_of_the_row_that_is_due_first():
    scheduler = scheduler_of(max_batch=4)
    begun(scheduler, 0, steps=3, key="wide")
    begun(scheduler, 1, steps=1, key="tall")
    begun(scheduler, 2, steps=9, key="tall")
    assert scheduler.schedule() == Batch("tall", (1, 2))


def test_a_row_that_does_not_fit_leaves_its_place_to_a_narrower_one():
    scheduler = scheduler_of(max_batch=4)
    begun(scheduler, 0, steps=1, width=3)
    begun(scheduler, 1, steps=2, width=2)
    begun(scheduler, 2, steps=6, width=1)
    assert ran(scheduler) == (0, 2)


def test_a_row_wider_than_the_batch_runs_by_itself():
    scheduler = scheduler_of(max_batch=1)
    begun(scheduler, 0, steps=1, width=2)
    begun(scheduler, 1, steps=4, width=1)
    assert ran(scheduler) == (0,)


def test_a_finished_row_frees_its_slot():
    scheduler = scheduler_of(max_batch=2, resident_rows=2)
    begun(scheduler, 0, steps=1)
    begun(scheduler, 1, steps=3)
    scheduler.add(2, 3)
    assert scheduler.admit() is None
    batch = scheduler.schedule()
    assert batch is not None
    assert scheduler.advance(batch) == (0,)
    assert scheduler.admit() == 2


def test_a_row_is_not_begun_while_rows_due_before_it_fill_the_batch():
    scheduler = scheduler_of(max_batch=2)
    begun(scheduler, 0, steps=2)
    begun(scheduler, 1, steps=2)
    scheduler.add(2, 5)
    assert scheduler.admit() is None


def test_a_short_row_is_begun_before_longer_ones_finish():
    scheduler = scheduler_of(max_batch=2)
    begun(scheduler, 0, steps=9)
    begun(scheduler, 1, steps=9)
    scheduler.add(2, 1)
    assert scheduler.admit() == 2


def test_a_row_cancelled_during_its_step_does_not_finish():
    scheduler = scheduler_of(max_batch=2)
    begun(scheduler, 0, steps=1)
    begun(scheduler, 1, steps=1)
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.cancel(0)
    assert scheduler.advance(batch) == (1,)


def test_row_steps_are_counted_by_key():
    scheduler = scheduler_of(max_batch=1)
    begun(scheduler, 0, steps=3, key="a")
    begun(scheduler, 1, steps=4, key="a")
    begun(scheduler, 2, steps=5, key="b")
    scheduler.add(3, 6)
    assert scheduler.row_steps() == Counter({"a": 7, "b": 5, None: 6})


@dataclass
class Row:
    """What the test knows of a row. expected and steps differ where the job promised otherwise than its family does."""

    arrived: int
    expected: int
    steps: int
    width: int
    key: str
    state: str = "waiting"
    ran: int = 0
    ended: int = 0

    @property
    def due(self) -> float:
        return self.arrived + STRETCH * max(self.expected, self.steps * self.width)


class Schedules(RuleBasedStateMachine):
    """Rows come, begin, run and are cancelled in any order; at the end everything left is run out."""

    def __init__(self) -> None:
        super().__init__()
        self.max_batch, self.resident_rows = 3, 5
        self.scheduler = Scheduler(max_batch=self.max_batch, resident_rows=self.resident_rows, stretch=STRETCH)
        self.rows: dict[int, Row] = {}
        self.tick = 0

    def those(self, state: str) -> set[int]:
        return {row for row, known in self.rows.items() if known.state == state}

    @rule(
        steps=st.integers(1, 12),
        more=st.integers(-2, 2),
        width=st.sampled_from([1, 1, 2, 5]),
        key=st.sampled_from("ab"),
        count=st.integers(1, 3),
    )
    def add(self, steps: int, more: int, width: int, key: str, count: int) -> None:
        for _ in range(count):
            row = len(self.rows)
            self.rows[row] = Row(self.tick, steps, max(1, steps + more), width, key)
            self.scheduler.add(row, steps)

    @rule()
    def admit(self) -> None:
        self.admitted()

    def admitted(self) -> bool:
        row = self.scheduler.admit()
        if row is None:
            # Nothing is held back from an empty machine.
            assert self.those("resident") or not self.those("waiting")
            return False
        known = self.rows[row]
        assert known.state == "waiting"
        known.state = "resident"
        self.scheduler.begin(row, key=known.key, steps=known.steps, width=known.width)
        return True

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.rows)))
        self.scheduler.cancel(row)
        if self.rows[row].state != "finished":
            self.rows[row].state = "cancelled"

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        batch = self.checked_batch()
        if batch is None:
            return
        if data.draw(st.booleans()):
            self.cancel(data)
        self.advance(batch)

    def checked_batch(self) -> Batch | None:
        batch = self.scheduler.schedule()
        if batch is None:
            assert not self.those("resident")
            return None
        rows = [self.rows[row] for row in batch.rows]
        assert len(set(batch.rows)) == len(batch.rows) > 0
        assert {row.state for row in rows} == {"resident"}
        assert {row.key for row in rows} == {batch.key}
        assert sum(row.width for row in rows) <= self.max_batch or len(rows) == 1
        return batch

    def advance(self, batch: Batch) -> None:
        finished = self.scheduler.advance(batch)
        self.tick += 1
        over: set[int] = set()
        for row in batch.rows:
            known = self.rows[row]
            known.ran += 1
            if known.state == "resident" and known.ran == known.steps:
                over.add(row)
                known.state, known.ended = "finished", self.tick
        assert len(finished) == len(set(finished))
        assert set(finished) == over

    @invariant()
    def every_row_is_where_it_should_be(self) -> None:
        assert self.scheduler.waiting_rows == len(self.those("waiting"))
        assert self.scheduler.running_rows == len(self.those("resident")) <= self.resident_rows
        left = sum(self.rows[row].steps - self.rows[row].ran for row in self.those("resident"))
        left += sum(self.rows[row].expected for row in self.those("waiting"))
        assert self.scheduler.row_steps().total() == left

    def teardown(self) -> None:
        while True:
            while self.admitted():
                pass
            batch = self.checked_batch()
            if batch is None:
                break
            self.advance(batch)
        assert not self.those("waiting")
        for row in self.rows.values():
            assert row.ran <= row.steps
            if row.state == "finished":
                assert row.ran == row.steps
                assert row.ended - row.arrived <= self.bound(row)

    def bound(self, row: Row) -> int:
        """No row that comes after this one is due can go before it; all others take at most one tick a step."""
        return sum(other.steps for other in self.rows.values() if other.arrived <= row.due)


Schedules.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySchedule = Schedules.TestCase


@given(
    steps=st.integers(1, 20),
    stream=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3), st.sampled_from("ab")), min_size=1, max_size=4),
)
def test_no_stream_of_shorter_rows_starves_a_long_one(steps: int, stream: list[tuple[int, int, str]]):
    scheduler = scheduler_of(max_batch=2, resident_rows=4)
    arrivals = {0: (0, steps)}
    scheduler.add(0, steps)
    sizes = {0: (steps, 1, "a")}
    tick = -1
    while tick < 1000:
        tick += 1
        row = len(sizes)
        sizes[row] = stream[row % len(stream)]
        arrivals[row] = (tick, sizes[row][0])
        scheduler.add(row, sizes[row][0])
        while (admitted := scheduler.admit()) is not None:
            steps_of, width, key = sizes[admitted]
            scheduler.begin(admitted, key=key, steps=steps_of, width=width)
        batch = scheduler.schedule()
        assert batch is not None
        if 0 in scheduler.advance(batch):
            break
    bound = sum(left for arrived, left in arrivals.values() if arrived <= STRETCH * steps)
    assert tick < bound


def spent(stretch: float, jobs: list[tuple[float, int]]) -> dict[int, list[float]]:
    """Ticks from arrival to the end for each length, of jobs (arrival in ticks, steps) through batches of 8."""
    scheduler = Scheduler(max_batch=8, resident_rows=32, stretch=stretch)
    now, coming, times = 0.0, 0, {steps: list[float]() for steps in {steps for _, steps in jobs}}
    while coming < len(jobs) or scheduler.waiting_rows or scheduler.running_rows:
        while coming < len(jobs) and jobs[coming][0] <= now:
            scheduler.add(coming, jobs[coming][1])
            coming += 1
        while (row := scheduler.admit()) is not None:
            scheduler.begin(row, key="k", steps=jobs[row][1], width=1)
        batch = scheduler.schedule()
        if batch is None:
            now = jobs[coming][0]
            continue
        now += 1
        for row in scheduler.advance(batch):
            arrived, steps = jobs[row]
            times[steps].append(now - arrived)
    return times


def test_short_jobs_wait_half_as_long_as_first_come_and_long_ones_at_most_a_third_longer():
    draw = random.Random(1)
    jobs, now, mean_steps = [], 0.0, 19.0
    for _ in range(2000):
        now += draw.expovariate(0.9 * 8 / mean_steps)
        jobs.append((now, draw.choices([4, 8, 28, 50], [0.3, 0.2, 0.4, 0.1])[0]))
    aged, first_come = spent(STRETCH, jobs), spent(0.0, jobs)
    short_wait = [sum(times[4]) / len(times[4]) - 4 for times in (aged, first_come)]
    long_p99 = [sorted(times[50])[int(0.99 * len(times[50]))] for times in (aged, first_come)]
    assert short_wait[0] <= 0.5 * short_wait[1]
    assert long_p99[0] <= 1.3 * long_p99[1]
