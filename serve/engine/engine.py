"""An engine: jobs in, futures out. It owns the thread, cancellation, the drain and how every job ends."""

import logging
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from serve.backends.base import Backend
from serve.engine.costs import DeviceCosts
from serve.engine.edit import Edit, untouched
from serve.engine.encoder import Encoder
from serve.engine.ledger import Ledger
from serve.engine.loop import Loop
from serve.engine.memory import Room
from serve.engine.policy import Row, Scheduler
from serve.engine.profile import Profile
from serve.engine.runner import Runner
from serve.engine.scheduler import TRIED, StepScheduler
from serve.engine.steplog import StepLog
from serve.engine.trail import Trail
from serve.engine.watch import Watch
from serve.engine.whole_requests import WholeRequests, equal_parameters, one_job
from serve.errors import BackendUnavailable, InvalidRequest, Overloaded
from serve.families.base import Family, Plan
from serve.types import EditJob, EditResult, QueuePlace

log = logging.getLogger(__name__)

RESIDENT_BATCHES = 4
"""Rows held in memory, in full batches: room for short jobs to overtake and for other keys to keep their place."""

IDLE_DOUBT = 2.0
"""How far the estimate of a job that finds the engine idle must pass its limit for the job to be refused."""

TRIAL_EVERY_S = 60.0
"""After so long an idle engine tries for itself what it has refused: where an estimate is wrong, only work that is run
can tell, and the caller who comes back finds it mended."""


class _Phase(Enum):
    NEW = "has not started"
    RUNNING = "runs"
    DRAINING = "is shutting down"
    STOPPED = "has stopped"
    DEAD = "has failed"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """max_batch: passes of one denoiser call. batching: see `ModelSettings`. max_queued_rows: rows that may wait; a job
    that nothing waits before is taken whatever its size. cache_bytes: of the text and image encodings kept.
    memory_share: of the device's memory that may be filled. step_log: a file for a line a step. stuck_after_s: how long
    the device may be at one turn, a step at the most and what is done beside it, until it is taken for hanging.
    """

    max_batch: int
    max_queued_rows: int = 64
    cache_bytes: int = 256 * 2**20
    batching: Literal["steps", "requests", "none"] = "steps"
    memory_share: float = 0.9
    step_log: Path | None = None
    stuck_after_s: float = math.inf


@dataclass(frozen=True, slots=True)
class EngineStats:
    """waiting_rows are not begun, running_rows begun and not finished. queued_s: seconds of work in both, estimated.

    jobs: that were taken; came_s: the work that came with them, measured as queued_s is, when they came.
    steps: batches run. row_steps: rows summed over them, so that row_steps / steps is the mean batch. passes: rows of
    the denoiser's calls, of which filler_passes are nobody's. wasted_row_steps: of jobs that ended without a result.
    cancelled_rows: of jobs that were cancelled. refused_jobs: for which there was no place, or not the time that they
    asked for. out_of_memory: calls that found no memory and were tried again. text_hits to image_misses: of the caches
    of encodings, which hold cache_bytes. memory_budget_bytes: that this process may fill of the device;
    memory_held_bytes: that begun rows hold of it. begun_jobs: that have run a step; waited_s: until then, but for their
    encoding. encode_s to preview_s: that the device worked for each stage. knee_passes: beyond which a batch of the
    kind that ran last gains nothing; limit_passes: that such a batch may have now, which less memory may lower.
    """

    waiting_rows: int
    running_rows: int
    queued_s: float
    jobs: int
    came_s: float
    steps: int
    row_steps: int
    passes: int
    filler_passes: int
    wasted_row_steps: int
    cancelled_rows: int
    refused_jobs: int
    out_of_memory: int
    text_hits: int
    text_misses: int
    image_hits: int
    image_misses: int
    cache_bytes: int
    memory_used_bytes: int
    memory_peak_bytes: int
    memory_budget_bytes: int
    memory_held_bytes: int
    begun_jobs: int
    waited_s: float
    encode_s: float
    steps_s: float
    decode_s: float
    preview_s: float
    knee_passes: int
    limit_passes: int
    healthy: bool


class Engine:
    """One loaded model. Every method may be called from any thread; none waits for the device, but `drain` and `check`.

    profile: what the model costs, as far as it is known.
    """

    def __init__(
        self, family: Family, backend: Backend, options: EngineOptions, profile: Profile | None = None
    ) -> None:
        self._family = family
        self._memory = backend.memory
        self._backend = backend
        self._options = options
        self._budget_bytes = int(options.memory_share * self._memory.capacity_bytes())
        self._runner = Runner(family, backend, options.max_batch)
        self._encoder = Encoder(family, self._runner, options.cache_bytes)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._changed = threading.Condition()
        # The lock of _changed guards all that follows. It is never held while the device works or a future ends.
        self._profile = profile or Profile(options.max_batch, fixed=not backend.batch_invariant)
        self._room = Room(self._profile, self._room_bytes())
        self._costs = DeviceCosts(self._profile, self._room)
        self._ledger = Ledger(_scheduler(options, self._costs), self._room)
        self._phase = _Phase.NEW
        self._failure: str | None = None
        self._turn_began_s = math.inf
        self._tried_s = time.monotonic()
        self._log = StepLog(options.step_log)

    def start(self) -> None:
        with self._changed:
            if self._phase is not _Phase.NEW:
                raise RuntimeError(f"an engine that {self._phase.value} cannot start")
            self._phase = _Phase.RUNNING
        self._thread.start()

    def submit(
        self,
        job: EditJob,
        time_limit_s: float | None = None,
        watch: Watch | None = None,
        trail: Trail | None = None,
    ) -> Future[EditResult]:
        """Queue a job. Its future ends once: with the result, an EditError, or cancelled.

        Its `cancel` ends the job: rows that wait leave the queue now, those in the batch at the next step boundary.
        time_limit_s: how long its caller will wait. A job that cannot end by then is not run: it is refused here or,
        where that shows later, by its future. watch: told how the job goes, its place in the queue first. trail: keeps
        when it was where.

        Raises Overloaded when too many rows wait or the time is too short, InvalidRequest for a job that the device has
        no memory for, BackendUnavailable when the engine no longer takes work.
        """
        now_s = time.monotonic()
        plan = self._family.plan(job) if job.strength and job.seeds else None
        with self._changed:
            if self._phase not in (_Phase.NEW, _Phase.RUNNING):
                raise BackendUnavailable(f"the model {self._phase.value}; try again")
            if plan is None or not plan.steps:
                return untouched(job)
            self._profile.know(plan.key, plan.tokens)
            self._refuse_too_large(job, plan)
            rows = self._ledger.rows_of(job, plan, now_s, now_s + (math.inf if time_limit_s is None else time_limit_s))
            self._refuse_overload(rows)
            place = self._forecast(rows, plan, now_s)
            try:
                self._refuse_too_late(place, time_limit_s)
            except Overloaded:
                self._try_for_itself(job, plan, now_s)
                raise
            edit = self._ledger.enqueue(job, plan, rows, place)
            edit.watch, edit.trail = watch, trail
            if trail is not None:
                trail.submitted_s = now_s
            edit.tell(place)
            self._changed.notify()
        # The callback is given no edit, because whoever holds the future would keep the edit's pictures alive.
        edit.future.add_done_callback(partial(self._ended, edit.rows.start))
        return edit.future

    def stats(self) -> EngineStats:
        with self._changed:
            scheduler, counters, made = self._ledger.scheduler, self._ledger.counters, self._runner.counters
            texts, images, last = self._encoder.texts, self._encoder.images, self._ledger.last_key
            return EngineStats(
                waiting_rows=scheduler.waiting_rows,
                running_rows=scheduler.running_rows,
                queued_s=scheduler.queued_s(),
                jobs=counters.jobs,
                came_s=counters.came_s,
                steps=counters.steps,
                row_steps=counters.row_steps,
                passes=made.passes,
                filler_passes=made.filler_passes,
                wasted_row_steps=counters.wasted_row_steps,
                cancelled_rows=counters.cancelled_rows,
                refused_jobs=counters.refused_jobs,
                out_of_memory=made.out_of_memory,
                text_hits=texts.hits,
                text_misses=texts.misses,
                image_hits=images.hits,
                image_misses=images.misses,
                cache_bytes=self._encoder.used_bytes,
                memory_used_bytes=self._memory.used_bytes(),
                memory_peak_bytes=self._memory.peak_bytes(),
                memory_budget_bytes=self._budget_bytes,
                memory_held_bytes=int(self._room.held_bytes),
                begun_jobs=counters.begun_jobs,
                waited_s=counters.waited_s,
                encode_s=counters.encode_s,
                steps_s=counters.steps_s,
                decode_s=counters.decode_s,
                preview_s=counters.preview_s,
                knee_passes=0 if last is None else self._profile.knee(last),
                limit_passes=0 if last is None else self._room.limit(last),
                healthy=self.healthy(),
            )

    def healthy(self) -> bool:
        """Whether jobs that were taken are being worked on."""
        return self._phase in (_Phase.RUNNING, _Phase.DRAINING) and not self._stuck()

    def check(self) -> None:
        """Raises BackendUnavailable where edits would fail now. Waits for the executor, for seconds at the most."""
        if not self.healthy():
            raise BackendUnavailable(f"the engine does not work: {self.failure()}")
        self._backend.check()

    def failure(self) -> str | None:
        """What the loop died of or that it hangs, for the operator; None while it does neither."""
        hangs = f"the device has not answered for {self._options.stuck_after_s:g} s"
        return self._failure or (hangs if self._stuck() else None)

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
        self._log.close()
        if not self._thread.is_alive():
            self._backend.close()

    def _stuck(self) -> bool:
        return time.monotonic() - self._turn_began_s > self._options.stuck_after_s

    def _room_bytes(self) -> float:
        """Whole-request batching, which is there to be measured against, does not look at the memory."""
        return self._budget_bytes - self._memory.used_bytes() if self._options.batching == "steps" else math.inf

    def _refuse_too_large(self, job: EditJob, plan: Plan) -> None:
        if not self._room.ever(plan.key, plan.passes):
            height, width, _ = job.canvas.shape
            raise InvalidRequest(
                f"a picture of {width}x{height} with {len(job.references)} references needs more memory than the "
                "device of this model has",
                param="size",
            )

    def _refuse_overload(self, rows: list[Row]) -> None:
        waiting, most = self._ledger.scheduler.waiting_rows, self._options.max_queued_rows
        if waiting and waiting + len(rows) > most:
            self._refuse(f"{waiting} images wait and {len(rows)} more were asked for; at most {most} may wait")

    def _refuse_too_late(self, place: QueuePlace, time_limit_s: float | None) -> None:
        doubt = 1.0 if self._ledger else IDLE_DOUBT
        if time_limit_s is not None and place.seconds > doubt * time_limit_s:
            self._refuse(
                f"the edit would take about {place.seconds:.1f} s, its wait included; the request allows "
                f"{time_limit_s:.1f} s"
            )

    def _try_for_itself(self, job: EditJob, plan: Plan, now_s: float) -> None:
        """Run one row's first steps of a job that was refused for its estimate. Nobody waits for what becomes of it."""
        if self._ledger or now_s - self._tried_s < TRIAL_EVERY_S:
            return
        self._tried_s = now_s
        job, plan = replace(job, seeds=job.seeds[:1], previews=0), replace(plan, steps=min(plan.steps, TRIED))
        rows = self._ledger.rows_of(job, plan, now_s, math.inf)
        self._ledger.enqueue(job, plan, rows, QueuePlace(0, 0.0)).future.cancel()
        self._changed.notify()

    def _refuse(self, message: str) -> None:
        self._ledger.counters.refused_jobs += 1
        raise Overloaded(message, retry_after_s=max(1.0, self._ledger.scheduler.queued_s()))

    def _forecast(self, rows: list[Row], plan: Plan, now_s: float) -> QueuePlace:
        self._costs.refresh()
        position, seconds = self._ledger.scheduler.forecast(rows, now_s)
        aside = (self._profile.encode_s, self._profile.decode_s)
        seconds += sum(curve.at(plan.key, plan.tokens, 1) or 0.0 for curve in aside)
        return QueuePlace(position, seconds)

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
        # MKL and OpenMP count their threads by thread: without this, the first products of this one would be computed
        # by as many as the machine has, whatever was set, and their rows come out with other bytes than later ones.
        torch.set_num_threads(torch.get_num_threads())
        loop = Loop(
            self._family,
            self._runner,
            self._encoder,
            self._ledger,
            self._profile,
            self._costs,
            self._changed,
            self._log,
            self._options.max_batch,
        )
        try:
            with torch.inference_mode():
                while self._has_work():
                    self._turn_began_s = time.monotonic()
                    loop.turn()
                    self._turn_began_s = math.inf
        except BaseException as error:
            log.critical("the engine's loop died", exc_info=True)
            self._failure = repr(error)
            self._end(_Phase.DEAD, BackendUnavailable("the model has failed; try again"))

    def _has_work(self) -> bool:
        """Waits until there is something to do. False: the thread is to end."""
        with self._changed:
            if not self._ledger:
                self._runner.vacate()
            self._changed.wait_for(lambda: self._ledger or self._phase is not _Phase.RUNNING)
            return bool(self._ledger)


def _scheduler(options: EngineOptions, costs: DeviceCosts) -> Scheduler:
    if options.batching == "steps":
        return StepScheduler(costs, resident_rows=RESIDENT_BATCHES * options.max_batch)
    group = equal_parameters if options.batching == "requests" else one_job
    return WholeRequests(costs, max_batch=options.max_batch, group=group)


def _fail_all(edits: list[Edit], error: BackendUnavailable) -> None:
    for edit in edits:
        edit.fail(error)
