"""Every job in the engine and where its rows stand: waiting, in the batch, or waiting for their decode."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve.engine.edit import Edit
from serve.engine.scheduler import Batch, Scheduler
from serve.families.base import Sample
from serve.types import EditJob


@dataclass(slots=True)
class Counters:
    """steps: batches run. row_steps: rows summed over them. wasted_row_steps: those of jobs that ended without a
    result. cancelled_rows: of jobs that were cancelled."""

    steps: int = 0
    row_steps: int = 0
    wasted_row_steps: int = 0
    cancelled_rows: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A batch to run: the edit and the sample of each of its rows."""

    batch: Batch
    edits: Sequence[Edit]
    samples: Sequence[Sample]


class Ledger:
    """Not for several threads at once: the engine's lock guards it.

    An edit is in it from `enqueue` until it is taken, once; whoever took it ends its future.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.counters = Counters()
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

    def enqueue(self, job: EditJob) -> Edit:
        edit = Edit(job, range(self._next_row, self._next_row + len(job.seeds)))
        self._next_row = edit.rows.stop
        for row in edit.rows:
            self._edits[row] = edit
            self.scheduler.add(row, max(1, int(job.steps * job.strength)))
        return edit

    def admitted(self) -> tuple[int, Edit] | None:
        """The row to begin now, if there is one."""
        row = self.scheduler.admit()
        return None if row is None else (row, self._edits[row])

    def begin(self, row: int, sample: Sample) -> None:
        self.scheduler.begin(row, key=sample.key, steps=sample.remaining, width=len(sample.passes))
        self._samples[row] = sample

    def next_step(self) -> Step | None:
        batch = self.scheduler.schedule()
        if batch is None:
            return None
        step = Step(batch, [self._edits[row] for row in batch.rows], [self._samples[row] for row in batch.rows])
        self.counters.steps += 1
        self.counters.row_steps += len(batch.rows)
        for edit in step.edits:
            edit.row_steps += 1
        return step

    def advance(self, batch: Batch) -> None:
        self._finished.extend(self.scheduler.advance(batch))

    def next_finished(self) -> tuple[int, Edit, Sample] | None:
        """A row to decode: the one that finished first. Those whose job has ended meanwhile are passed over."""
        while self._finished:
            row = self._finished.popleft()
            if row in self._edits:
                return row, self._edits[row], self._samples.pop(row)
        return None

    def take(self, edit: Edit) -> bool:
        """Forget the edit and its rows. False: somebody else took it, and ends it."""
        if edit.rows.start not in self._edits:
            return False
        for row in edit.rows:
            del self._edits[row]
            self._samples.pop(row, None)
            self.scheduler.cancel(row)
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
