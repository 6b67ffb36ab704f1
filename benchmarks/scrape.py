"""A server's own counters, from the Prometheus text of its `GET /metrics`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.run import Engine

PREFIX = "retouch_engine_"
COUNTERS = ("steps", "row_steps", "passes", "filler_passes", "wasted_row_steps", "cancelled_rows")
"""Fields of `Engine`; the metric is `retouch_engine_{field}_total`."""

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """Values of one model's metrics, by the metric's name and its other labels."""

    values: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict[str, dict[Labels, float]])

    @classmethod
    def of(cls, text: str, model: str) -> "Scrape":
        """text: in Prometheus' form. Only metrics of the engine with that label `model` are kept."""
        values: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(PREFIX) and sample.labels.get("model") == model:
                    labels = frozenset((name, value) for name, value in sample.labels.items() if name != "model")
                    values.setdefault(sample.name.removeprefix(PREFIX), {})[labels] = sample.value
        return cls(values)


def engine(before: Scrape, after: Scrape) -> Engine | None:
    """What happened between two scrapes; None where the second has nothing of the model."""
    if not after.values:
        return None
    grown = {name: _grown(before, after, f"{name}_total") for name in COUNTERS}
    return Engine(
        **grown,
        memory_peak_bytes=_over(max, after, "memory_peak_bytes"),
        waiting_rows=_over(sum, after, "waiting_rows"),
        running_rows=_over(sum, after, "running_rows"),
        cache_hits=_by_kind(before, after, "cache_hits_total"),
        cache_misses=_by_kind(before, after, "cache_misses_total"),
    )


def _growth(before: Scrape, after: Scrape, name: str) -> dict[Labels, float]:
    """A counter that has fallen is one of a process that was started anew: it has grown from 0."""
    old = before.values.get(name, {})
    pairs = {labels: (old.get(labels, 0.0), value) for labels, value in after.values.get(name, {}).items()}
    return {labels: new - was if new >= was else new for labels, (was, new) in pairs.items()}


def _grown(before: Scrape, after: Scrape, name: str) -> float | None:
    growth = _growth(before, after, name)
    return sum(growth.values()) if growth else None


def _over(combine: Callable[[list[float]], float], scrape: Scrape, name: str) -> float | None:
    values = list(scrape.values.get(name, {}).values())
    return combine(values) if values else None


def _by_kind(before: Scrape, after: Scrape, name: str) -> dict[str, float]:
    kinds: dict[str, float] = {}
    for labels, value in _growth(before, after, name).items():
        kind = dict(labels).get("kind", "")
        kinds[kind] = kinds.get(kind, 0.0) + value
    return kinds
