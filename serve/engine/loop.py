"""One turn of the engine: rows join, a batch takes one step, finished rows become pictures.

Between two steps, encoding and decoding take at most `ASIDE` of a step together, so that rows in the batch are hardly
held up and a row that comes finds its place at the next step. Where there is nothing to step, they take what they need.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Condition

from serve.engine.costs import DeviceCosts
from serve.engine.curves import Curves
from serve.engine.edit import Edit, Encoded
from serve.engine.encoder import Encoder, Parts
from serve.engine.faults import contained
from serve.engine.ledger import Finished, Ledger, Step
from serve.engine.profile import Profile
from serve.engine.runner import Runner, RunnerCounters
from serve.engine.steplog import StepLine, StepLog
from serve.engine.trail import Period
from serve.engine.watch import preview_steps
from serve.errors import Overloaded
from serve.families.base import Family, Sample
from serve.types import Pixels, Preview, Progress

ASIDE = 0.5
"""Of a step's time."""

PATIENCE = 2
"""Steps that a finished row may be passed over, because encoding had used up the time."""


@dataclass(slots=True)
class _Aside:
    """The time between two steps: what it may take, and what was done in it. Without a step before it has no end."""

    budget_s: float = math.inf
    spent_s: float = 0.0
    encodes: int = 0
    decodes: int = 0

    @property
    def left_s(self) -> float:
        return self.budget_s - self.spent_s

    def at_most(self, seconds: float) -> None:
        """Where rows are to step that have not stepped yet, no more than for those that have."""
        if self.budget_s == math.inf:
            self.budget_s = seconds


@dataclass(frozen=True, slots=True)
class _Shown:
    """A row that is due to be shown: the image that it becomes, and which of its previews this is."""

    edit: Edit
    sample: Sample
    image: int
    index: int


@dataclass(slots=True)
class Loop:
    """changed: its lock guards the ledger, the profile and the costs. It is never held while the device works or a
    future ends.
    """

    family: Family
    runner: Runner
    encoder: Encoder
    ledger: Ledger
    profile: Profile
    costs: DeviceCosts
    changed: Condition
    log: StepLog
    max_batch: int
    _aside: _Aside = field(default_factory=_Aside)
    _passed_over: int = 0

    def turn(self) -> None:
        """Raises BackendLost: the executor is gone."""
        self._refuse_hopeless()
        self._begin_rows()
        self._decode_rows()
        self._take_step()

    def _refuse_hopeless(self) -> None:
        with self.changed:
            self.costs.refresh()
            edits = self.ledger.hopeless(time.monotonic())
            retry_after_s = max(1.0, self.ledger.scheduler.queued_s())
            self.ledger.counters.refused_jobs += len(edits)
        for edit in edits:
            message = "the edit can no longer end within the time that the request allows"
            edit.fail(Overloaded(message, retry_after_s=retry_after_s))

    def _begin_rows(self) -> None:
        """The rows of the next batch that wait join it: those that are encoded, and others as the time allows."""
        with self.changed:
            admitted = self.ledger.admitted(time.monotonic())
            if admitted:
                key = admitted[0][1].plan.key
                self._aside.at_most(ASIDE * self.costs.step_s(key, self.costs.limit(key)))
        edits = {id(edit): edit for _, edit in admitted if edit.encoded is None}
        self._encode(list(edits.values()))
        for row, edit in admitted:
            if edit.encoded is not None:
                with contained(partial(self._fail, edit)):
                    encodings = edit.encoded.encodings
                    self._begin(row, self.family.begin(edit.job, encodings.texts, encodings.images, edit.seed(row)))

    def _encode(self, edits: Sequence[Edit]) -> None:
        """At least one of them, together with as many more as are expected to fit the time. All are of one key."""
        began_s = time.monotonic()
        kept = [edit for edit in edits if self.encoder.keeps(self._parts(edit))]
        read_s = time.monotonic() - began_s
        new = [edit for edit in edits if edit not in kept]
        new = new[: self._affordable(self.profile.encode_s, new)]
        self._aside.spent_s += read_s
        edits = [*kept, *new]
        if not edits:
            return
        with self.changed:
            most = self.ledger.room.encoded_together(edits[0].plan.key)
        started_s = time.monotonic()
        answers = self.encoder.encode([self._parts(edit) for edit in edits], most)
        ended_s = time.monotonic()
        for edit, answer in zip(edits, answers, strict=True):
            if edit.trail is not None:
                edit.trail.encoded = (started_s, ended_s)
            if isinstance(answer, Exception):
                self._fail(edit, answer)
            else:
                edit.encoded = Encoded(answer, started_s, ended_s)
        if new:
            self._aside.encodes += len(new)
            self._spent(self.profile.encode_s, new, answers, ended_s - started_s)
            with self.changed:
                self.ledger.counters.encode_s += ended_s - started_s

    def _parts(self, edit: Edit) -> Parts:
        """Its pictures are read once, however many turns it waits for its encoding."""
        if edit.parts is None:
            edit.parts = self.encoder.parts(edit.job)
        return edit.parts

    def _begin(self, row: int, sample: Sample) -> None:
        with self.changed:
            if row in self.ledger:
                self.ledger.begin(row, sample)
                self.costs.refresh()

    def _take_step(self) -> None:
        with self.changed:
            step = self.ledger.next_step(time.monotonic())
            waiting = self.ledger.scheduler.waiting_rows
        if step is None:
            self._aside = _Aside()
            return
        before = replace(self.runner.counters)
        at, started_s = time.time(), time.monotonic()
        failures = self.runner.run([self.family.step(sample) for sample in step.samples], step.batch.rows)
        ended_s = time.monotonic()
        self._account(step, failures, started_s, ended_s, self.runner.counters.out_of_memory > before.out_of_memory)
        _keep(step, (started_s, ended_s))
        for edit, failure in zip(step.edits, failures, strict=True):
            if failure is not None:
                self._fail(edit, failure)
        self._write(step, at, ended_s - started_s, waiting, before)
        self._aside = _Aside(ASIDE * (ended_s - started_s))
        self._tell_watchers(step)

    def _tell_watchers(self, step: Step) -> None:
        """What their rows have done, and what they will look like."""
        shown: list[_Shown] = []
        for row, edit, sample in zip(step.batch.rows, step.edits, step.samples, strict=True):
            if edit.watch is None:
                continue
            image, steps = row - edit.rows.start, preview_steps(edit.plan.steps, edit.job.previews)
            edit.tell(Progress(image, sample.done, edit.plan.steps))
            if sample.done in steps:
                shown.append(_Shown(edit, sample, image, steps.index(sample.done)))
        if shown:
            self._show(shown)

    def _show(self, shown: Sequence[_Shown]) -> None:
        """A preview that cannot be made is left out."""
        started_s = time.monotonic()
        pictures = self.runner.run([self.family.preview(one.sample) for one in shown])
        seconds = time.monotonic() - started_s
        self._aside.spent_s += seconds
        with self.changed:
            self.ledger.counters.preview_s += seconds
            for one in shown:
                self.ledger.scheduler.charge(one.edit.plan.key, seconds / len(shown))
        for one, pixels in zip(shown, pictures, strict=True):
            if not isinstance(pixels, Exception):
                one.edit.tell(Preview(one.image, one.index, pixels))

    def _account(self, step: Step, failures: Sequence[object], started_s: float, ended_s: float, ran_out: bool) -> None:
        with self.changed:
            self.ledger.advance(step, started_s, ended_s)
            if ran_out:
                self.ledger.room.ran_out(step.batch.key, step.batch.passes)
            elif not any(failures):
                self.profile.stepped(step.batch.key, step.batch.passes, ended_s - started_s)
            self.costs.refresh()

    def _write(self, step: Step, at: float, seconds: float, waiting: int, before: RunnerCounters) -> None:
        now, aside, rows = self.runner.counters, self._aside, len(step.batch.rows)
        passes, filler = now.passes - before.passes, now.filler_passes - before.filler_passes
        key = str(step.batch.key)
        self.log.write(StepLine(at, seconds, key, rows, passes, filler, waiting, aside.encodes, aside.decodes))

    def _decode_rows(self) -> None:
        while most := self._decodable():
            with self.changed:
                finished = self.ledger.next_finished(most)
                nothing_steps = not self.ledger.scheduler.running_rows
            if finished:
                self._decode(finished)
            if nothing_steps or not finished:
                return

    def _decodable(self) -> int:
        """Rows to decode now, in one go: as the time allows, but one a step at least, unless it went into encoding.

        Where jobs are short, samples would pile up: those beyond a full batch are decoded whatever it takes.
        """
        with self.changed:
            first = self.ledger.first_finished()
            surplus = self.ledger.finished_rows - self.max_batch
            if first is None:
                return 0
            together = int(min(self.runner.together, self.ledger.room.decoded_together(first.plan.key)))
            if not self.ledger.scheduler.running_rows:
                return together
            expected_s = self.profile.decode_s.at(first.plan.key, first.plan.tokens, 1) or 0.0
        affordable = int(min(self._aside.left_s, 1e6) / max(expected_s, 1e-9))
        due = not self._aside.decodes and (not self._aside.encodes or self._passed_over >= PATIENCE)
        most = max(affordable, surplus, int(due))
        self._passed_over = 0 if most > 0 or self._aside.decodes else self._passed_over + 1
        return min(most, together) if most > 0 else 0

    def _decode(self, finished: Sequence[Finished]) -> None:
        started_s = time.monotonic()
        pictures = self.runner.run([self.family.decode(one.sample) for one in finished])
        seconds = time.monotonic() - started_s
        self._aside.decodes += len(finished)
        self._spent(self.profile.decode_s, [one.edit for one in finished], pictures, seconds)
        with self.changed:
            self.ledger.counters.decode_s += seconds
        for one, picture in zip(finished, pictures, strict=True):
            if one.edit.trail is not None:
                one.edit.trail.decoding((started_s, started_s + seconds))
            if isinstance(picture, Exception):
                self._fail(one.edit, picture)
            else:
                self._deliver(one.edit, one.row, picture, seconds / len(finished))

    def _affordable(self, seconds: Curves, edits: Sequence[Edit]) -> int:
        """How many of these edits' rows the time that is left has room for; one at least."""
        count = 0
        left_s = self._aside.left_s
        for edit in edits:
            left_s -= seconds.at(edit.plan.key, edit.plan.tokens, 1) or 0.0
            if left_s < 0 and count:
                break
            count += 1
        return count

    def _spent(self, seconds: Curves, edits: Sequence[Edit], answers: Sequence[object], spent_s: float) -> None:
        """Charge the edits' key, and learn what one such row takes; of a failure, which may be quick, nothing."""
        self._aside.spent_s += spent_s
        plan = edits[0].plan
        with self.changed:
            self.ledger.scheduler.charge(plan.key, spent_s)
            if not any(isinstance(answer, Exception) for answer in answers):
                seconds.learned(plan.key, plan.tokens, 1, spent_s / len(edits))

    def _deliver(self, edit: Edit, row: int, pixels: Pixels, decoding_s: float) -> None:
        with self.changed:
            self.ledger.room.free(row)
            done = edit.deliver(row, pixels, decoding_s) and self.ledger.take(edit)
        if done:
            edit.succeed()

    def _fail(self, edit: Edit, error: Exception) -> None:
        with self.changed:
            dropped = self.ledger.drop(edit)
        if dropped:
            edit.fail(error)


def _keep(step: Step, period: Period) -> None:
    """For the jobs that are followed. A future that has ended is read at once, so this comes before any ends."""
    for edit, rows in Counter(edit for edit in step.edits if edit.trail is not None).items():
        assert edit.trail is not None
        edit.trail.stepped(period, rows, len(step.batch.rows))
