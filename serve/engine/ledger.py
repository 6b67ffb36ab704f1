"""Every job in the engine and where its rows stand: waiting, in the batch, or waiting for their decode."""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from serve.engine.edit import Edit
from serve.engine.memory import Room
from serve.engine.policy import Batch, Row, Scheduler
from serve.families.base import Plan, Sample
from serve.types import EditJob, QueuePlace


@dataclass(slots=True)
class Counters:
    """steps: batches run. row_steps: rows summed over them. wasted_row_steps: those of jobs that ended without a
    result. cancelled_rows: of jobs that were cancelled. refused_jobs: for which there was no place or no time.
    jobs: that came and were taken. came_s: the device's seconds that their steps were expected to take, in full
    batches. begun_jobs: that have run a step; waited_s: until then, but for their encoding. encode_s to preview_s: that
    the device worked for each stage."""

    jobs: int = 0
    came_s: float = 0.0
    begun_jobs: int = 0
    waited_s: float = 0.0
    encode_s: float = 0.0
    steps_s: float = 0.0
    decode_s: float = 0.0
    preview_s: float = 0.0
    steps: int = 0
    row_steps: int = 0
    wasted_row_steps: int = 0
    cancelled_rows: int = 0
    refused_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A batch to run: the edit and the sample of each of its rows."""

    batch: Batch
    edits: Sequence[Edit]
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Finished:
    """A row that has run its last step."""

    row: int
    edit: Edit
    sample: Sample


class Ledger:
    """Not for several threads at once: the engine's lock guards it.

    An edit is in it from `enqueue` until it is taken, once; whoever took it ends its future. last_key: of the batch
    that ran last; None before the first.
    """

    def __init__(self, scheduler: Scheduler, room: Room) -> None:
        self.scheduler = scheduler
        self.room = room
        self.counters = Counters()
        self.last_key: Hashable = None
        self._next_row = 0
        self._edits: dict[int, Edit] = {}
        self._samples: dict[int, Sample] = {}
        self._finished: deque[int] = deque()

    def __bool__(self) -> bool:
        return bool(self._edits)

    def __contains__(self, row: int) -> bool:
        return row in self._edits

    @property
    def finished_rows(self) -> int:
        """Rows that wait for their decode."""
        return len(self._finished)

    def rows_of(self, job: EditJob, plan: Plan, now_s: float, deadline_s: float) -> list[Row]:
        """The rows that `enqueue` would add."""
        parameters = (job.steps, job.strength, job.guidance)
        first = self._next_row
        return [
            Row(row, first, plan.key, plan.steps, plan.passes, now_s, job.priority, deadline_s, parameters)
            for row in range(first, first + len(job.seeds))
        ]

    def enqueue(self, job: EditJob, plan: Plan, rows: Sequence[Row], place: QueuePlace) -> Edit:
        """rows: of `rows_of`, with nothing enqueued since."""
        edit = Edit(job, range(rows[0].id, rows[-1].id + 1), plan, place, rows[0].arrived_s, rows[0].deadline_s)
        self._next_row = edit.rows.stop
        before_s = self.scheduler.queued_s()
        for row in rows:
            self._edits[row.id] = edit
            self.scheduler.add(row)
        self.counters.jobs += 1
        self.counters.came_s += self.scheduler.queued_s() - before_s
        return edit

    def admitted(self, now_s: float) -> list[tuple[int, Edit]]:
        """The rows to begin now, as far as there is memory; with none begun, the first at any rate."""
        rows = [(row, self._edits[row]) for row in self.scheduler.admit(now_s)]
        fitting = [
            (count == 1 and self.room.is_empty) or self.room.for_more(edit.plan.key, count)
            for count, (_, edit) in enumerate(rows, start=1)
        ]
        return [row for row, fits in zip(rows, fitting, strict=True) if fits]

    def begin(self, row: int, sample: Sample) -> None:
        self.scheduler.begin(row)
        self.room.hold(row, sample.nbytes)
        self._samples[row] = sample

    def next_step(self, now_s: float) -> Step | None:
        batch = self.scheduler.schedule(now_s)
        if batch is None:
            return None
        step = Step(batch, [self._edits[row] for row in batch.rows], [self._samples[row] for row in batch.rows])
        self.last_key = batch.key
        self.counters.steps += 1
        self.counters.row_steps += len(batch.rows)
        for edit in step.edits:
            edit.row_steps += 1
        return step

    def advance(self, step: Step, started_s: float, ended_s: float) -> None:
        """The step ran from and to these times."""
        self.counters.steps_s += ended_s - started_s
        for edit in step.edits:
            first = not edit.has_stepped
            edit.stepped(started_s, ended_s)
            if first:
                self.counters.begun_jobs += 1
                self.counters.waited_s += edit.waited_s()
        self._finished.extend(self.scheduler.advance(step.batch, ended_s - started_s))

    def first_finished(self) -> Edit | None:
        """The edit of the row that is to be decoded first."""
        while self._finished and self._finished[0] not in self._edits:
            self._finished.popleft()
        return self._edits[self._finished[0]] if self._finished else None

    def next_finished(self, most: int) -> list[Finished]:
        """Rows to decode together, at most so many: the one that finished first, and others of its key.

        Their samples are the caller's from now on. Those whose job has ended meanwhile are passed over.
        """
        first = self.first_finished()
        if first is None:
            return []
        key = first.plan.key
        alike = [row for row in self._finished if row in self._edits and self._edits[row].plan.key == key][:most]
        for row in alike:
            self._finished.remove(row)
        return [Finished(row, self._edits[row], self._samples.pop(row)) for row in alike]

    def hopeless(self, now_s: float) -> list[Edit]:
        """Drop the edits that can no longer end in their time."""
        edits = {id(edit): edit for row in self.scheduler.hopeless(now_s) if (edit := self._edits.get(row))}
        return [edit for edit in edits.values() if self.drop(edit)]

    def take(self, edit: Edit) -> bool:
        """Forget the edit and its rows. False: somebody else took it, and ends it."""
        if edit.rows.start not in self._edits:
            return False
        for row in edit.rows:
            del self._edits[row]
            self._samples.pop(row, None)
            self.scheduler.cancel(row)
            self.room.free(row)
        return True

    def drop(self, edit: Edit) -> bool:
        """Take an edit that ends without a result."""
        taken = self.take(edit)
        if taken:
            self.counters.wasted_row_steps += edit.row_steps
        return taken

    def drop_cancelled(self, first_row: int) -> Edit | None:
        """Drop the edit whose first row this is, for nobody waits for it; None: it was taken before."""
        edit = self._edits.get(first_row)
        if edit is not None and self.drop(edit):
            self.counters.cancelled_rows += len(edit.rows)
        return edit

    def drop_waiting(self) -> list[Edit]:
        """Drop the edits of which no row has begun."""
        return [edit for edit in self._matching(lambda edit: edit.encoded is None) if self.drop(edit)]

    def drop_all(self) -> list[Edit]:
        return [edit for edit in self._matching(lambda _: True) if self.drop(edit)]

    def _matching(self, which: Callable[[Edit], bool]) -> list[Edit]:
        return [edit for row, edit in self._edits.items() if row == edit.rows.start and which(edit)]
