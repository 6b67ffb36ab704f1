"""The loop that edits: schedule, step, decode. It owns the thread, cancellation, the drain and how every job ends.

Each turn of the loop is one step boundary: rows join, one batch takes one step, a finished row becomes a picture. At
most one job is encoded and, unless finished rows pile up, one row decoded a turn, so that rows in the batch are never
held up for long.
"""

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch

from serve.engine.edit import Edit, untouched
from serve.engine.encoder import Encoder
from serve.engine.estimate import StepTimes
from serve.engine.faults import contained
from serve.engine.ledger import Ledger
from serve.engine.runner import Runner
from serve.engine.scheduler import Batch, Scheduler
from serve.errors import BackendUnavailable, Overloaded
from serve.families.base import Family, Sample
from serve.types import EditJob, EditResult, Pixels

log = logging.getLogger(__name__)

RESIDENT_BATCHES = 4
"""Rows held in memory, in full batches: room for short jobs to overtake and for other keys to keep their place."""


class _Phase(Enum):
    NEW = "has not started"
    RUNNING = "runs"
    DRAINING = "is shutting down"
    STOPPED = "has stopped"
    DEAD = "has failed"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """waiting_rows are not begun, running_rows begun and not finished. queued_s: seconds of work in both, estimated.

    steps: batches run. row_steps: rows summed over them, so that row_steps / steps is the mean batch. wasted_row_steps:
    those of jobs that ended without a result. cancelled_rows: of jobs that were cancelled. cache_hits and cache_misses:
    of text and image encodings.
    """

    waiting_rows: int
    running_rows: int
    queued_s: float
    steps: int
    row_steps: int
    wasted_row_steps: int
    cancelled_rows: int
    cache_hits: int
    cache_misses: int
    healthy: bool


class Engine:
    """One loaded model. Every method may be called from any thread; none waits for the device, except `drain`.

    max_batch: passes of one denoiser call. batch_invariant: see `Backend`. max_queued_rows: rows that may wait; a job
    that nothing waits before is taken whatever its size. cache_bytes: of the text and image encodings kept.
    """

    def __init__(
        self, family: Family, *, batch_invariant: bool, max_batch: int, max_queued_rows: int, cache_bytes: int
    ) -> None:
        self._family = family
        self._encoder = Encoder(family, cache_bytes)
        self._runner = Runner(family, max_batch=max_batch, batch_invariant=batch_invariant)
        self._max_batch = max_batch
        self._max_queued_rows = max_queued_rows
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._changed = threading.Condition()
        # The lock of _changed guards all that follows. It is never held while the device works or a future ends.
        self._ledger = Ledger(Scheduler(max_batch=max_batch, resident_rows=RESIDENT_BATCHES * max_batch))
        self._times = StepTimes()
        self._phase = _Phase.NEW
        self._failure: str | None = None

    def start(self) -> None:
        with self._changed:
            if self._phase is not _Phase.NEW:
                raise RuntimeError(f"an engine that {self._phase.value} cannot start")
            self._phase = _Phase.RUNNING
        self._thread.start()

    def submit(self, job: EditJob) -> Future[EditResult]:
        """Queue a job. Its future ends once: with the result, an EditError, or cancelled.

        Its `cancel` ends the job: rows that wait leave the queue now, those in the batch at the next step boundary.

        Raises Overloaded when too many rows wait, BackendUnavailable when the engine no longer takes work.
        """
        with self._changed:
            if self._phase not in (_Phase.NEW, _Phase.RUNNING):
                raise BackendUnavailable(f"the model {self._phase.value}; try again")
            if job.strength == 0 or not job.seeds:
                return untouched(job)
            self._refuse_overload(len(job.seeds))
            edit = self._ledger.enqueue(job)
            self._changed.notify()
        # The callback is given no edit, because whoever holds the future would keep the edit's pictures alive.
        edit.future.add_done_callback(partial(self._ended, edit.rows.start))
        return edit.future

    def stats(self) -> EngineStats:
        with self._changed:
            scheduler, counters = self._ledger.scheduler, self._ledger.counters
            return EngineStats(
                waiting_rows=scheduler.waiting_rows,
                running_rows=scheduler.running_rows,
                queued_s=self._times.seconds(scheduler.row_steps()),
                steps=counters.steps,
                row_steps=counters.row_steps,
                wasted_row_steps=counters.wasted_row_steps,
                cancelled_rows=counters.cancelled_rows,
                cache_hits=self._encoder.hits,
                cache_misses=self._encoder.misses,
                healthy=self.healthy(),
            )

    def healthy(self) -> bool:
        """Whether jobs that were taken are being worked on."""
        return self._phase in (_Phase.RUNNING, _Phase.DRAINING)

    def failure(self) -> str | None:
        """What the loop died of, for the operator; None while it has not."""
        return self._failure

    def drain(self, timeout_s: float) -> None:
        """Take no more work, fail what waits, finish what runs, end the thread. Past the time, fail that as well."""
        with self._changed:
            if self._phase in (_Phase.NEW, _Phase.RUNNING):
                self._phase = _Phase.DRAINING
            waiting = self._ledger.drop_waiting()
            self._changed.notify()
        _fail_all(waiting, BackendUnavailable("the model is shutting down; try again"))
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        self._end(_Phase.STOPPED, BackendUnavailable("the model was shut down before the edit was done; try again"))

    def _refuse_overload(self, rows: int) -> None:
        scheduler = self._ledger.scheduler
        waiting = scheduler.waiting_rows
        if waiting and waiting + rows > self._max_queued_rows:
            raise Overloaded(
                f"{waiting} images wait and {rows} more were asked for; at most {self._max_queued_rows} may wait",
                retry_after_s=max(1.0, self._times.seconds(scheduler.row_steps())),
            )

    def _ended(self, first_row: int, future: Future[EditResult]) -> None:
        """The future's callback, which matters when its holder has cancelled it."""
        if not future.cancelled():
            return
        with self._changed:
            edit = self._ledger.drop_cancelled(first_row)
            self._changed.notify()
        if edit is not None:
            edit.confirm_cancelled()

    def _end(self, phase: _Phase, error: BackendUnavailable) -> None:
        with self._changed:
            if self._phase is not _Phase.DEAD:
                self._phase = phase
            left = self._ledger.drop_all()
            self._changed.notify()
        _fail_all(left, error)

    # The loop's thread from here on.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._has_work():
                    self._turn()
        except BaseException as error:
            log.critical("the engine's loop died", exc_info=True)
            self._failure = repr(error)
            self._end(_Phase.DEAD, BackendUnavailable("the model has failed; try again"))

    def _has_work(self) -> bool:
        """Waits until there is something to do. False: the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ledger or self._phase is not _Phase.RUNNING)
            return bool(self._ledger)

    def _turn(self) -> None:
        started_s = time.monotonic()
        self._begin_rows()
        batch = self._step()
        self._decode_rows()
        if batch:
            with self._changed:
                self._times.measured(batch.key, len(batch.rows), time.monotonic() - started_s)

    def _begin_rows(self) -> None:
        """Rows join while the scheduler admits them, up to the second job that would have to be encoded."""
        misses = self._encoder.misses
        while admitted := self._admitted():
            row, edit = admitted
            if edit.encoded is None and self._encoder.misses > misses:
                return
            with contained(partial(self._fail, edit)):
                encodings = edit.encode(self._encoder)
                sample = self._family.begin(edit.job, encodings.texts, encodings.images, edit.seed(row))
                self._begin(edit, row, sample)

    def _admitted(self) -> tuple[int, Edit] | None:
        with self._changed:
            return self._ledger.admitted()

    def _begin(self, edit: Edit, row: int, sample: Sample) -> None:
        with self._changed:
            if row not in self._ledger:
                return
            if sample.remaining:
                self._ledger.begin(row, sample)
                return
            self._ledger.scheduler.cancel(row)
        self._deliver(edit, row, edit.job.canvas, decoding_s=0.0)

    def _step(self) -> Batch | None:
        with self._changed:
            step = self._ledger.next_step()
        if step is None:
            return None
        started_s = time.monotonic()
        failures = self._runner.step(step.samples)
        ended_s = time.monotonic()
        with self._changed:
            self._ledger.advance(step.batch)
        for edit, failure in zip(step.edits, failures, strict=True):
            edit.stepped(started_s, ended_s)
            if failure is not None:
                self._fail(edit, failure)
        return step.batch

    def _decode_rows(self) -> None:
        """One a turn, and all beyond a full batch: where jobs are short, samples would pile up."""
        for _ in range(max(1, self._ledger.finished_rows - self._max_batch)):
            with self._changed:
                finished = self._ledger.next_finished()
            if finished is None:
                return
            self._decode(*finished)

    def _decode(self, row: int, edit: Edit, sample: Sample) -> None:
        with contained(partial(self._fail, edit)):
            started_s = time.monotonic()
            pixels = self._family.decode(sample)
            self._deliver(edit, row, pixels, decoding_s=time.monotonic() - started_s)

    def _deliver(self, edit: Edit, row: int, pixels: Pixels, decoding_s: float) -> None:
        with self._changed:
            done = edit.deliver(row, pixels, decoding_s) and self._ledger.take(edit)
        if done:
            edit.succeed()

    def _fail(self, edit: Edit, error: Exception) -> None:
        with self._changed:
            dropped = self._ledger.drop(edit)
        if dropped:
            edit.fail(error)


def _fail_all(edits: list[Edit], error: BackendUnavailable) -> None:
    for edit in edits:
        edit.fail(error)
