"""Whole-request batching, as other servers do it: what step-level batching is measured against.

The request that came first runs, and with it those that wait with equal parameters, until all of them are done;
nothing joins or leaves on the way.
"""

from collections.abc import Callable, Hashable, Sequence

from serve.engine.policy import Batch, Costs, Row


def equal_parameters(row: Row) -> Hashable:
    return row.key, row.parameters


def one_job(row: Row) -> Hashable:
    return row.job


class WholeRequests:
    """group: rows of equal groups may run together; `equal_parameters`, or `one_job` for one request at a time."""

    def __init__(self, costs: Costs, *, max_batch: int, group: Callable[[Row], Hashable]) -> None:
        self._costs = costs
        self._max_batch = max_batch
        self._group = group
        self._waiting: dict[int, Row] = {}
        self._running: dict[int, Row] = {}
        self._begun: set[int] = set()
        self._left: dict[int, int] = {}

    @property
    def waiting_rows(self) -> int:
        return len(self._left) - len(self._begun)

    @property
    def running_rows(self) -> int:
        return len(self._begun)

    def add(self, row: Row) -> None:
        self._waiting[row.id] = row
        self._left[row.id] = row.steps

    def admit(self, now_s: float) -> tuple[int, ...]:
        """The batch is chosen when the one before it has ended."""
        if not self._running:
            self._choose()
        return tuple(row for row in self._running if row not in self._begun)

    def begin(self, row: int) -> None:
        self._begun.add(row)

    def cancel(self, row: int) -> None:
        for rows in (self._waiting, self._running, self._left):
            rows.pop(row, None)
        self._begun.discard(row)

    def schedule(self, now_s: float) -> Batch | None:
        """Nothing runs before all that run together are begun."""
        rows = tuple(self._running.values())
        if not rows or any(row.id not in self._begun for row in rows):
            return None
        return Batch(rows[0].key, tuple(row.id for row in rows), sum(row.width for row in rows))

    def advance(self, batch: Batch, seconds: float) -> tuple[int, ...]:
        moved = [row for row in batch.rows if row in self._left]
        for row in moved:
            self._left[row] -= 1
        finished = tuple(row for row in moved if not self._left[row])
        for row in finished:
            self.cancel(row)
        return finished

    def charge(self, key: Hashable, seconds: float) -> None:
        """Keys do not share the device: whoever came first has it."""

    def hopeless(self, now_s: float) -> list[int]:
        rows = (*self._waiting.values(), *self._running.values())
        alone = len({row.job for row in rows}) == 1
        return [row.id for row in rows if now_s + (0.0 if alone else self._run_s(row)) > row.deadline_s]

    def queued_s(self) -> float:
        """As if nothing could share a batch, which is what can be promised."""
        return sum(self._run_s(row) for row in (*self._running.values(), *self._waiting.values()))

    def forecast(self, rows: Sequence[Row], now_s: float) -> tuple[int, float]:
        jobs = {row.job for row in self._waiting.values()}
        return len(jobs) + bool(self._left), self.queued_s() + sum(map(self._run_s, rows))

    def _run_s(self, row: Row) -> float:
        steps = self._left.get(row.id, row.steps)
        return steps * row.width * self._costs.step_s(row.key, self._max_batch) / self._max_batch

    def _choose(self) -> None:
        first = next(iter(self._waiting.values()), None)
        room = self._max_batch
        for row in tuple(self._waiting.values()):
            if first and self._group(row) == self._group(first) and (row.width <= room or row is first):
                self._running[row.id] = self._waiting.pop(row.id)
                room -= row.width
