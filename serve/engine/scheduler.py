"""Which rows run the next step: the shortest first, as long as long ones hardly wait longer than first come would.

A pure state machine: no torch, no threads, no clock of its own; its caller tells the time. It holds every row from
`add` until it finishes or is cancelled, under ids that the caller gives and that grow.

*Within a key* (rows that may share a pass of the denoiser) a row is *due*, from the moment it comes, a little later
than first come, first served, would have ended it; a row that is quick, beside what the device works on otherwise, is
due sooner than that. As long as every row of the key can still end by then, the row with the least left to do runs
first, which is what makes the mean wait shortest. Once one could not, the row that is due first runs first, until there
is slack again. So quick edits overtake others even in a crowd. They are a small part of the work, so all others
together pay for it with a small part of their wait. Nobody starves: a row that is past its due time is overtaken by
none that comes.

*Between keys* the device's time is shared by turns (`serve.engine.turns`).
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from serve.engine.policy import Batch, Costs, Row
from serve.engine.turns import Turns
from serve.types import Priority

PATIENCE: Mapping[Priority, float] = {"high": 0.0, "normal": 1.1, "low": 4.0}
"""When a row is due: this many times what first come, first served among rows of its priority and above would take.

One of high priority is due when it comes: among those of normal priority only what is past its time runs before it."""

PATIENCE_RUN = 0.1
"""And so many times its own run in full batches, for one that finds the device idle has no wait to take a part of."""

QUICK = 0.6
"""Of the typical run: a row with a shorter one is due sooner, by the square of how much shorter it is."""

ROUNDING = 1e-6
"""Steps: what sums of seconds may be off by, so that a slack of just one step is one, however it was added up."""

MEMORY = 0.99
"""Weight of the row before in what is typical."""

TRIED = 3
"""Steps of a row after which the quickest of them tells what one takes at most: the first may be slow by accident."""

MOST_LOOKED_AT = 20_000
"""Rows that a forecast looks at, batch for batch: enough for 150 that run one by one, and some ten milliseconds."""

RANK: Mapping[Priority, int] = {"high": 0, "normal": 1, "low": 2}


@dataclass(slots=True)
class _Progress:
    """A row, when it is due, the steps that it still has to run, whether it is begun, and its quickest step."""

    row: Row
    due_s: float
    steps: int
    begun: bool = False
    quickest_s: float = math.inf

    @property
    def passes(self) -> int:
        return self.steps * self.row.width


@dataclass(frozen=True, slots=True)
class _TypicalRun:
    """The run that a second of the device's work belongs to, in the mean: of runs of 1 s and 9 s that is 8.2 s."""

    sum_s: float = 0.0
    sum_of_squares: float = 0.0

    def after(self, run_s: float) -> "_TypicalRun":
        """With one more run."""
        return _TypicalRun(MEMORY * self.sum_s + run_s, MEMORY * self.sum_of_squares + run_s**2)

    def length_of(self, run_s: float) -> float:
        """In typical runs; 1 as long as none is known."""
        return run_s * self.sum_s / self.sum_of_squares if self.sum_of_squares else 1.0


class StepScheduler:
    """resident_rows: rows that may be begun and not finished at one time, because each holds memory."""

    def __init__(self, costs: Costs, *, resident_rows: int) -> None:
        self._costs = costs
        self._resident_rows = resident_rows
        self._rows: dict[int, _Progress] = {}
        self._by_key: dict[Hashable, dict[int, _Progress]] = {}
        self._turns = Turns()
        self._typical = _TypicalRun()
        self._begun = 0

    @property
    def waiting_rows(self) -> int:
        return len(self._rows) - self._begun

    @property
    def running_rows(self) -> int:
        return self._begun

    def add(self, row: Row) -> None:
        progress = self._planned(row, self._typical)
        self._rows[row.id] = progress
        self._by_key.setdefault(row.key, {})[row.id] = progress
        self._typical = self._typical.after(self._run_s(row))
        self._turns.enter(row.key, self._full_step_s(row.key))

    def admit(self, now_s: float) -> tuple[int, ...]:
        """Only of the key whose turn it is: memory that it waits for is not given to others meanwhile."""
        room = self._resident_rows - self._begun
        if not self.waiting_rows or room <= 0:
            return ()
        key = self._turns.front()
        return tuple(progress.row.id for progress in self._joining(key, self._ordered(key, now_s), room))

    def begin(self, row: int) -> None:
        self._rows[row].begun = True
        self._begun += 1

    def cancel(self, row: int) -> None:
        if row in self._rows:
            self._remove(row)

    def schedule(self, now_s: float) -> Batch | None:
        """Of the first key in turn that has a row begun: one that waits for memory does not hold up the others."""
        if not self._begun:
            return None
        self._turns.front()
        for key in self._turns:
            begun = [progress for progress in self._ordered(key, now_s) if progress.begun]
            if begun:
                chosen = [progress.row for progress in self._first(key, begun)]
                return Batch(key, tuple(row.id for row in chosen), sum(row.width for row in chosen))
        return None

    def advance(self, batch: Batch, seconds: float) -> tuple[int, ...]:
        self._turns.step(batch.key, seconds)
        moved = [self._rows[row] for row in batch.rows if row in self._rows]
        for progress in moved:
            progress.steps -= 1
            progress.quickest_s = min(progress.quickest_s, seconds)
        finished = tuple(progress.row.id for progress in moved if not progress.steps)
        for row in finished:
            self._remove(row)
        return finished

    def charge(self, key: Hashable, seconds: float) -> None:
        self._turns.charge(key, seconds)

    def hopeless(self, now_s: float) -> list[int]:
        alone = len({progress.row.job for progress in self._rows.values()}) == 1
        limited = (progress for progress in self._rows.values() if progress.row.deadline_s < math.inf)
        return [one.row.id for one in limited if now_s + self._least_s(one, alone) > one.row.deadline_s]

    def queued_s(self) -> float:
        return sum(self._device_s(key, self._by_key[key].values()) for key in self._by_key)

    def forecast(self, rows: Sequence[Row], now_s: float) -> tuple[int, float]:
        """As it goes on when nothing else comes: one batch of the key after the other, others' turns beside them. Of a
        long queue, what is beyond the first batches is foreseen in the mean.

        Another key takes no more of the device than its work needs, nor more than this one gets.
        """
        key, job = rows[0].key, rows[0].job
        left = _by_due([replace(one) for one in (*self._by_key.get(key, {}).values(), *self._planned_job(rows))])
        others_s = [self._alone_s(other) for other in self._others(key)]
        ahead: set[int] = set()
        place, waits, own_s = 0, True, 0.0
        mine, looked_at = len(rows), 0
        while mine:
            ordered, spare_steps = self._ordered_by(key, left, now_s + _beside(own_s, others_s))
            if looked_at > MOST_LOOKED_AT:
                before = takewhile(lambda one: one.row.job != job, ordered if waits else ())
                ahead |= {one.row.job for one in before if not one.begun}
                own_s += self._mean_s(key, ordered, job)
                break
            joining, batch = self._next(key, ordered)
            waits = waits and all(one.row.job != job for one in batch)
            if waits:
                place = 1
                ahead |= {one.row.job for one in joining}
            steps = _steps_alike(batch, spare_steps)
            own_s += steps * self._costs.step_s(key, sum(one.row.width for one in batch))
            for one in batch:
                one.steps -= steps
                mine -= not one.steps and one.row.job == job
            left = [one for one in left if one.steps]
            looked_at += len(ordered)
        return place + len(ahead), _beside(own_s, others_s)

    def _next(self, key: Hashable, ordered: Sequence[_Progress]) -> tuple[Sequence[_Progress], Sequence[_Progress]]:
        """Of a forecast: the rows that join, which are begun with that, and the batch that runs then."""
        joining = self._joining(key, ordered, self._resident_rows - sum(one.begun for one in ordered))
        for one in joining:
            one.begun = True
        return joining, self._first(key, (one for one in ordered if one.begun))

    def _least_s(self, progress: _Progress, alone: bool) -> float:
        """Of the steps that are left, with nothing before them; alone: as far as the row itself has shown it."""
        row = progress.row
        if alone and row.steps - progress.steps < TRIED:
            return 0.0
        return progress.steps * min(progress.quickest_s, self._costs.step_s(row.key, row.width))

    def _planned_job(self, rows: Sequence[Row]) -> Iterable[_Progress]:
        """Each as if those before it had been added."""
        ahead_s, typical = 0.0, self._typical
        for row in rows:
            yield self._planned(row, typical, ahead_s)
            ahead_s += self._run_s(row) / self._costs.limit(row.key)
            typical = typical.after(self._run_s(row))

    def _planned(self, row: Row, typical: _TypicalRun, siblings_s: float = 0.0) -> _Progress:
        """Due as its priority promises, or at its deadline where that is earlier. siblings_s: of its job, before it."""
        rank = RANK[row.priority]
        ahead_s = siblings_s + sum(
            self._device_s(key, (one for one in rows.values() if RANK[one.row.priority] <= rank))
            for key, rows in self._by_key.items()
        )
        run_s = self._run_s(row)
        first_come_s = max(run_s, ahead_s + run_s / self._costs.limit(row.key))
        wait_s = PATIENCE[row.priority] * first_come_s
        if row.priority == "normal":
            wait_s = max(run_s, wait_s * min(1.0, typical.length_of(run_s) / QUICK) ** 2)
        due_s = row.arrived_s + wait_s + PATIENCE_RUN * run_s
        return _Progress(row, min(due_s, row.deadline_s), row.steps)

    def _ordered(self, key: Hashable, now_s: float) -> list[_Progress]:
        return self._ordered_by(key, _by_due(self._by_key[key].values()), now_s)[0]

    def _ordered_by(self, key: Hashable, by_due: list[_Progress], now_s: float) -> tuple[list[_Progress], float]:
        """The rows by what they have left while there is slack, by when they are due without; and `_spare_steps`."""
        spare_steps = self._spare_steps(key, by_due, now_s)
        if spare_steps < 1:
            return by_due, spare_steps
        return sorted(by_due, key=_work), spare_steps

    def _spare_steps(self, key: Hashable, by_due: Iterable[_Progress], now_s: float) -> float:
        """For how many full steps the rows, run in this order, could be held up without one being late. 0 as long as
        no step was measured."""
        step_s = self._full_step_s(key)
        if not step_s:
            return 0.0
        share_s = step_s / self._costs.limit(key)
        others_s = sum(self._device_s(other, self._by_key[other].values()) for other in self._others(key))
        turns = max(1, len(self._by_key))
        slack_s, passes = math.inf, 0
        # With few calls of `min` and `max`, which would take most of the time of a forecast.
        for progress in by_due:
            own = progress.steps * progress.row.width
            passes += own
            busy_s = passes * share_s if passes * share_s > own * step_s else own * step_s
            end_s = turns * busy_s if turns * busy_s < busy_s + others_s else busy_s + others_s
            slack_s = min(slack_s, progress.due_s - now_s - end_s)
        return slack_s / step_s + ROUNDING

    def _joining(self, key: Hashable, ordered: Iterable[_Progress], room: int) -> list[_Progress]:
        """The rows of the next batch that are not begun, as many as there is room for."""
        return [one for one in self._first(key, ordered) if not one.begun][: max(0, room)]

    def _first(self, key: Hashable, ordered: Iterable[_Progress]) -> list[_Progress]:
        """The rows of one batch: the first, however wide it is, and the next ones that fit beside it."""
        limit = room = self._costs.limit(key)
        chosen: list[_Progress] = []
        for progress in ordered:
            if progress.row.width <= room or room == limit:
                chosen.append(progress)
                room -= progress.row.width
            if room <= 0:
                break
        return chosen

    def _device_s(self, key: Hashable, rows: Iterable[_Progress]) -> float:
        """Of the rows' steps in full batches."""
        return sum(progress.passes for progress in rows) * self._full_step_s(key) / self._costs.limit(key)

    def _mean_s(self, key: Hashable, ordered: Sequence[_Progress], job: int) -> float:
        """Until the job's last row has run: in full batches in this order, though none of its rows in less than its
        own steps."""
        last = max(place for place, one in enumerate(ordered) if one.row.job == job)
        steps = max(one.steps for one in ordered if one.row.job == job)
        return max(self._device_s(key, ordered[: last + 1]), steps * self._full_step_s(key))

    def _alone_s(self, key: Hashable) -> float:
        """Of the key's rows if they had the device: in batches that are no fuller than there are rows for."""
        rows = self._by_key[key].values()
        passes = min(self._costs.limit(key), sum(one.row.width for one in rows))
        return max(self._device_s(key, rows), max(one.steps for one in rows) * self._costs.step_s(key, passes))

    def _run_s(self, row: Row) -> float:
        """Of all its steps in full batches."""
        return row.steps * row.width * self._full_step_s(row.key)

    def _full_step_s(self, key: Hashable) -> float:
        return self._costs.step_s(key, self._costs.limit(key))

    def _others(self, key: Hashable) -> Iterable[Hashable]:
        return (other for other in self._by_key if other != key)

    def _remove(self, row: int) -> None:
        progress = self._rows.pop(row)
        self._begun -= progress.begun
        key = progress.row.key
        del self._by_key[key][row]
        if not self._by_key[key]:
            del self._by_key[key]
            self._turns.leave(key)


def _by_due(rows: Iterable[_Progress]) -> list[_Progress]:
    return sorted(rows, key=lambda one: (one.due_s, one.row.id))


def _beside(own_s: float, others_s: Iterable[float]) -> float:
    """With others' turns, each of which wants so much of the device in all."""
    return own_s + sum(min(own_s, other_s) for other_s in others_s)


def _work(progress: _Progress) -> tuple[int, int, int]:
    row = progress.row
    return RANK[row.priority], progress.steps * row.width, row.id


def _steps_alike(batch: Sequence[_Progress], spare_steps: float) -> int:
    """How many steps the batch runs before another may: until a row has ended, or there is no slack any more."""
    steps = min(one.steps for one in batch)
    return int(min(steps, spare_steps)) if spare_steps >= 1 else steps
