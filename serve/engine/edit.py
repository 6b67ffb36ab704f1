"""One job on its way through the engine, and the one end that it comes to."""

import logging
import math
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, field

from serve.engine.encoder import Encodings, Parts
from serve.engine.trail import Trail
from serve.engine.watch import Event, Watch
from serve.errors import EditError, InternalError
from serve.families.base import Plan
from serve.types import EditJob, EditResult, Pixels, QueuePlace, Usage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Encoded:
    """started_s, ended_s: of the encoding, as `time.monotonic`."""

    encodings: Encodings
    started_s: float
    ended_s: float


@dataclass(slots=True, eq=False)
class Edit:
    """rows: ids of the job's rows, one a seed. plan: of each of them. place: where it stood when it came.

    deadline_s: when it must have ended, as `time.monotonic`. parts: None until its turn to be encoded comes. encoded:
    None until its rows can begin. The future stays pending until its end, so that its holder can cancel it at any time.
    `succeed`, `fail` or `confirm_cancelled` is called once, by whoever took the edit out of the engine. watch: told
    what happens on the way; None: nobody listens. trail: keeps when that was; None: nobody reads it.
    """

    job: EditJob
    rows: range
    plan: Plan
    place: QueuePlace
    submitted_s: float
    deadline_s: float = math.inf
    future: Future[EditResult] = field(default_factory=Future)
    parts: Parts | None = None
    encoded: Encoded | None = None
    watch: Watch | None = None
    trail: Trail | None = None
    row_steps: int = 0
    _pictures: dict[int, Pixels] = field(default_factory=dict)
    _first_step_s: float = 0.0
    _last_step_s: float = 0.0
    _decoding_s: float = 0.0

    def seed(self, row: int) -> int:
        return self.job.seeds[row - self.rows.start]

    def tell(self, event: Event) -> None:
        """A watcher that fails is told no more; the edit is not at fault."""
        if self.watch is None:
            return
        try:
            self.watch(event)
        except Exception:
            log.exception("the watcher of request %s failed", self.job.request_id, extra=_of(self.job.request_id))
            self.watch = None

    @property
    def has_stepped(self) -> bool:
        return bool(self._first_step_s)

    def stepped(self, started_s: float, ended_s: float) -> None:
        """A step of some of the rows ran from and to these times."""
        self._first_step_s = self._first_step_s or started_s
        self._last_step_s = ended_s

    def waited_s(self) -> float:
        """Of an edit that has stepped: until its first step, but for its encoding."""
        return self._first_step_s - self.submitted_s - self._encoding_s()

    def deliver(self, row: int, pixels: Pixels, decoding_s: float) -> bool:
        """The picture of a row is there. Answers whether it was the last."""
        self._pictures[row] = pixels
        self._decoding_s += decoding_s
        return len(self._pictures) == len(self.rows)

    def succeed(self) -> None:
        """Its time is spent in the queue until the first step, but for the encoding; then in steps, and in decoding."""
        assert self.encoded is not None
        seconds = {
            "queue": self.waited_s(),
            "encode": self._encoding_s(),
            "denoise": self._last_step_s - self._first_step_s,
            "vae": self._decoding_s,
        }
        timings_ms = {stage: 1000 * spent for stage, spent in seconds.items()}
        images = tuple(self._pictures[row] for row in self.rows)
        if self.future.set_running_or_notify_cancel():
            encodings = self.encoded.encodings
            self.future.set_result(
                EditResult(images, encodings.usage, timings_ms, encodings.revised_prompt, self.place)
            )

    def fail(self, error: Exception) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(_for_the_caller(error, self.job.request_id))

    def confirm_cancelled(self) -> None:
        """The holder has cancelled the future; those who wait for it are told."""
        self.future.set_running_or_notify_cancel()

    def _encoding_s(self) -> float:
        return self.encoded.ended_s - self.encoded.started_s if self.encoded else 0.0


def untouched(job: EditJob) -> Future[EditResult]:
    """The end of a job that has nothing to run: its canvas, of which nothing was read or drawn."""
    future: Future[EditResult] = Future()
    timings_ms = {"queue": 0.0, "encode": 0.0, "denoise": 0.0, "vae": 0.0}
    future.set_result(EditResult((job.canvas,) * len(job.seeds), Usage(0, 0, 0), timings_ms, revised_prompt=None))
    return future


def _for_the_caller(error: Exception, request_id: str) -> EditError:
    """A new error without a traceback, which would keep tensors alive and, in a batch, be shared between callers."""
    if isinstance(error, EditError):
        return copy(error)
    log.error("request %s failed", request_id, exc_info=error, extra=_of(request_id))
    return InternalError("the edit failed inside the server")


def _of(request_id: str) -> dict[str, str]:
    """Fields of a log line, of which the engine's own thread would know nothing."""
    return {"request_id": request_id}
