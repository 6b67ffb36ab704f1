"""When a job was where in the engine, for whoever follows it: its stages and steps, as `time.monotonic`."""

from dataclasses import dataclass, field

MOST_STEPS = 128
"""Of a job, that are kept: more than one row can take, and as many events as OpenTelemetry keeps of a span."""

Period = tuple[float, float]
"""When it began and when it ended."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """A batch in which `rows` rows of the job took a step, beside those of others; `batch` in all."""

    period: Period
    rows: int
    batch: int


@dataclass(slots=True)
class Trail:
    """The engine's threads write it while the job runs; whoever handed it in reads it afterwards.

    submitted_s: None where the job was not taken. encoded: None before that. decoded: the first call to the last one.
    steps: in their order; those beyond `MOST_STEPS` are only counted, in `steps_left_out`.
    """

    submitted_s: float | None = None
    encoded: Period | None = None
    decoded: Period | None = None
    steps: list[Stepped] = field(default_factory=list[Stepped])
    steps_left_out: int = 0
    _last_step_s: float = -1.0

    def stepped(self, period: Period, rows: int, batch: int) -> None:
        if len(self.steps) < MOST_STEPS:
            self.steps.append(Stepped(period, rows, batch))
        else:
            self.steps_left_out += 1
        self._last_step_s = period[1]

    @property
    def denoised(self) -> Period | None:
        """From the first step to the last one, whether or not that was kept."""
        return (self.steps[0].period[0], self._last_step_s) if self.steps else None

    def decoding(self, period: Period) -> None:
        self.decoded = (self.decoded[0] if self.decoded else period[0], period[1])
