"""What one measurement has found, as one JSON file.

The file holds the fields of `Run` under their names here, `schema` with the value of `SCHEMA`, and `figures`: the
fields of `benchmarks.figures.Figures`, which follow from the others, so that reading computes them anew. A later
version may add fields; unknown ones are passed over. A version that changes a meaning has another `SCHEMA`.
All times are in seconds, those of records from the run's start; an absent value is null.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from benchmarks.errors import BenchError
from benchmarks.steplog import Step

SCHEMA = "retouch-bench/1"

Outcome = Literal["answered", "refused", "failed", "unfinished"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "refused", "failed", "unfinished")


@dataclass(frozen=True, slots=True)
class Record:
    """One request that was sent.

    planned_s: when it should have been sent: its arrival, or in a closed loop the moment its worker was free. sent_s:
    when it was. ended_s: when its last byte had come, the connection failed, or the run ended. outcome: `answered` with
    its pictures, `refused` (4xx), `failed` (5xx, a broken connection, an answer that is not the API's) or `unfinished`,
    given up at the run's hard stop. status: of HTTP. code: the API's `error.code`, else `http_404` or the like, or the
    class of the connection's error; empty where answered. rows, row_steps: what it asked for. images: pictures that it
    got. stages_ms: the answer's `server-timing`. deadline_s: from planned_s.
    """

    index: int
    kind: str
    planned_s: float
    sent_s: float
    ended_s: float
    outcome: Outcome
    rows: int
    status: int | None = None
    code: str = ""
    images: int = 0
    row_steps: int | None = None
    deadline_s: float | None = None
    stages_ms: dict[str, float] = field(default_factory=dict[str, float])
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def latency_s(self) -> float:
        """From the moment it should have been sent, so that a late harness is never to the server's credit."""
        return self.ended_s - self.planned_s

    @property
    def lag_s(self) -> float:
        return self.sent_s - self.planned_s

    @property
    def in_time(self) -> bool:
        return self.outcome == "answered" and (self.deadline_s is None or self.latency_s <= self.deadline_s)


@dataclass(frozen=True, slots=True)
class Load:
    """How requests came. process: `poisson` (rate, a second), `trace` (origin), or `closed` (concurrency, workers)."""

    process: Literal["poisson", "trace", "closed"]
    rate: float | None = None
    concurrency: int | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """What the server's metrics say of the run, summed over the model's replicas; each None where it does not tell.

    passes: rows of the denoiser's passes, filler_passes of these without a request. wasted_row_steps: of rows that were
    cancelled later. memory_peak_bytes: of the replica that used most, since it started. waiting_rows, running_rows: at
    the run's end. cache_hits, cache_misses: by the cache's kind.
    """

    steps: float | None = None
    row_steps: float | None = None
    passes: float | None = None
    filler_passes: float | None = None
    wasted_row_steps: float | None = None
    cancelled_rows: float | None = None
    memory_peak_bytes: float | None = None
    waiting_rows: float | None = None
    running_rows: float | None = None
    cache_hits: dict[str, float] = field(default_factory=dict[str, float])
    cache_misses: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def rows_per_step(self) -> float | None:
        return _share(self.row_steps, self.steps)

    @property
    def filler_share(self) -> float | None:
        return _share(self.filler_passes, self.passes)

    @property
    def hit_rates(self) -> dict[str, float]:
        """From 0 to 1, of the caches that were asked."""
        asked = {kind: self.cache_hits.get(kind, 0.0) + self.cache_misses.get(kind, 0.0) for kind in self._kinds()}
        return {kind: self.cache_hits.get(kind, 0.0) / total for kind, total in asked.items() if total}

    def _kinds(self) -> list[str]:
        return sorted({*self.cache_hits, *self.cache_misses})


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that the harness ran on. load_before, load_after: the load average of the last minute."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    load_before: float
    load_after: float
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the harness itself was, in seconds."""

    mean_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement.

    label: groups runs in plots. url, form, extra_fields: how the server was asked. model: as asked for; facts: what
    `GET /v1/models/{id}` said of it. plan: facts of the workload or trace, withheld the fields of it that were not
    sent. requests, duration_s, grace_s, warmup: the bounds asked for. started_at: Unix seconds of the run's start.
    wall_s: from there to the last answer or the hard stop. solo_s: seconds that each kind takes alone. loop_lag: how
    late a clock in the harness's own event loop woke. steps: of the server's step log within the run, where one is at
    hand.
    """

    label: str
    url: str
    form: str
    extra_fields: list[str]
    model: str
    facts: dict[str, Any]
    workload: str
    plan: dict[str, Any]
    withheld: list[str]
    load: Load
    seed: int
    requests: int | None
    duration_s: float
    grace_s: float
    warmup: int
    started_at: float
    wall_s: float
    solo_s: dict[str, float]
    loop_lag: Lag
    engine: Engine | None
    machine: Machine
    records: list[Record]
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def simulated(self) -> bool:
        return self.facts.get("backend") == "simulated"

    @property
    def device(self) -> str:
        """The backend; of a simulated one its table and speed, where the server tells them."""
        if not self.simulated:
            return str(self.facts.get("backend", "not told"))
        played = self.facts.get("simulated")
        return simulated(**played) if played else "simulated, by a table and at a speed that the server does not tell"


_RUN = TypeAdapter(Run)


def load(path: Path) -> Run:
    """Raises BenchError: the file cannot be read, or is none of this schema."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BenchError(f"run {path} cannot be read: {error.strerror}") from None
    except BenchError as error:
        raise BenchError(f"run {path} {error}") from None


def parse(text: bytes) -> Run:
    """Raises BenchError, without the file's name."""
    try:
        values = TypeAdapter(dict[str, Any]).validate_json(text)
        if values.get("schema") != SCHEMA:
            raise BenchError(f"has the schema {values.get('schema')!r}; this version reads {SCHEMA}")
        return _RUN.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise BenchError(f"is no run: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def dumped(run: Run) -> dict[str, Any]:
    """The run as JSON values, without its figures."""
    return {"schema": SCHEMA, **_RUN.dump_python(run, mode="json")}


def simulated(timings: str, speed: float) -> str:
    """How a simulated device is named wherever its figures are: by its table, and how many times as fast it runs."""
    return f"simulated {timings} x{speed:g}"


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
