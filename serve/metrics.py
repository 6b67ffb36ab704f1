"""What the engines say of themselves, in Prometheus' text form: one table of names, and how it is filled."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "retouch_engine_"
LABELS = ("model", "replica")


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """values: the fields of an `EngineStats` by name. replica: the name of the process that the engine runs in."""

    replica: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. name: with `PREFIX` before it; a counter gets `_total` behind it. field: of `EngineStats`, or one for
    each value of the label `kind`.
    """

    type: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    field: str | Mapping[str, str]

    @property
    def fields(self) -> Mapping[tuple[str, ...], str]:
        """By the labels that they add to `LABELS`."""
        return {(): self.field} if isinstance(self.field, str) else {(kind,): name for kind, name in self.field.items()}


FAMILIES = (
    Family(CounterMetricFamily, "jobs", "Edits that were taken.", "jobs"),
    Family(CounterMetricFamily, "work_seconds", "Work of edits that were taken, in estimated seconds.", "came_s"),
    Family(CounterMetricFamily, "steps", "Batches that were run.", "steps"),
    Family(CounterMetricFamily, "row_steps", "Rows, summed over the batches that were run.", "row_steps"),
    Family(CounterMetricFamily, "passes", "Passes of rows through the denoiser.", "passes"),
    Family(CounterMetricFamily, "filler_passes", "Passes beside those, which only filled a batch up.", "filler_passes"),
    Family(
        CounterMetricFamily, "wasted_row_steps", "Row steps of edits that ended without a result.", "wasted_row_steps"
    ),
    Family(CounterMetricFamily, "cancelled_rows", "Rows of edits whose callers left.", "cancelled_rows"),
    Family(CounterMetricFamily, "refused_jobs", "Edits refused for a full queue or their deadline.", "refused_jobs"),
    Family(
        CounterMetricFamily,
        "out_of_memory",
        "Calls that found no memory on the device and were tried again in smaller parts.",
        "out_of_memory",
    ),
    Family(
        CounterMetricFamily,
        "cache_hits",
        "Encodings of prompts and pictures that were found in the cache.",
        {"text": "text_hits", "image": "image_hits"},
    ),
    Family(
        CounterMetricFamily,
        "cache_misses",
        "Encodings of prompts and pictures that had to be made.",
        {"text": "text_misses", "image": "image_misses"},
    ),
    Family(GaugeMetricFamily, "waiting_rows", "Rows that are not begun.", "waiting_rows"),
    Family(GaugeMetricFamily, "running_rows", "Rows that are begun and not finished.", "running_rows"),
    Family(GaugeMetricFamily, "queued_seconds", "Work of all rows, in estimated seconds.", "queued_s"),
    Family(GaugeMetricFamily, "cache_bytes", "Bytes of the encodings in the cache.", "cache_bytes"),
    Family(GaugeMetricFamily, "memory_used_bytes", "Memory of the device in use, in bytes.", "memory_used_bytes"),
    Family(GaugeMetricFamily, "memory_peak_bytes", "Most memory of the device used, in bytes.", "memory_peak_bytes"),
    Family(
        GaugeMetricFamily,
        "memory_budget_bytes",
        "Memory of the device that the process may fill, in bytes.",
        "memory_budget_bytes",
    ),
    Family(GaugeMetricFamily, "healthy", "1 while edits that were taken are being worked on.", "healthy"),
)


def exposition(engines: Mapping[str, Sequence[EngineFigures]]) -> bytes:
    """Prometheus' text form, of type `CONTENT_TYPE`. engines: the replicas of each model, by the model's id."""
    return generate_latest(_Collected(engines))


@dataclass(frozen=True, slots=True)
class _Collected:
    engines: Mapping[str, Sequence[EngineFigures]]

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for family in FAMILIES:
            yield self._filled(family)

    def _filled(self, family: Family) -> CounterMetricFamily | GaugeMetricFamily:
        more = () if isinstance(family.field, str) else ("kind",)
        metric = family.type(PREFIX + family.name, family.help, labels=(*LABELS, *more))
        for model, replicas in self.engines.items():
            for engine in replicas:
                for labels, field in family.fields.items():
                    metric.add_metric((model, engine.replica, *labels), engine.values[field])
        return metric
