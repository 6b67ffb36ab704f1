"""The figures of all processes as one page, in Prometheus' text form."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from serve.metrics.table import (
    CODEC,
    ENGINE,
    HEALTHY_REPLICAS,
    LEAST_REPLICAS,
    REPLICA,
    REQUESTS,
    SILENT_REPLICAS,
    EngineMetric,
    Metric,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """values: the fields of an `EngineStats` by name. replica: the name of the process that the engine runs in."""

    replica: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """samples: by the name of their metric, without the label of the replica."""

    replica: str
    samples: Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class Told:
    """What processes answered. engines: by the id of their model. least: replicas of each model that the configuration
    wants. silent: by the name and the model of a deployment, how many did not answer.
    """

    requests: Sequence[ProcessFigures]
    codec: Sequence[ProcessFigures]
    engines: Mapping[str, Sequence[EngineFigures]]
    least: Mapping[str, int]
    silent: Mapping[tuple[str, str], int]


def figures_of(replica: str, registry: CollectorRegistry) -> ProcessFigures:
    """What was counted in a registry."""
    return ProcessFigures(replica, {family.name: family.samples for family in registry.collect()})


def exposition(told: Told) -> bytes:
    """Of type `CONTENT_TYPE`: every metric of the table with a sample for each process that answered."""
    return generate_latest(_Collected(told))


@dataclass(frozen=True, slots=True)
class _Collected:
    told: Told

    def collect(self) -> Iterator[Family]:
        for metrics, processes in ((REQUESTS, self.told.requests), (CODEC, self.told.codec)):
            yield from (_filled(metric, _counted(metric, processes)) for metric in metrics)
        yield from (_filled(metric, self._of_engines(metric)) for metric in ENGINE)
        yield _filled(LEAST_REPLICAS, _by_labels(LEAST_REPLICAS, {(of,): at for of, at in self.told.least.items()}))
        yield _filled(HEALTHY_REPLICAS, _by_labels(HEALTHY_REPLICAS, self._healthy()))
        yield _filled(SILENT_REPLICAS, _by_labels(SILENT_REPLICAS, self.told.silent))

    def _of_engines(self, metric: EngineMetric) -> Iterator[Sample]:
        (name,) = metric.samples
        for model, replicas in self.told.engines.items():
            for engine in replicas:
                for values, field in metric.fields.items():
                    labels = dict(zip(metric.labels, (model, *values), strict=True))
                    yield Sample(name, {**labels, REPLICA: engine.replica}, engine.values[field])

    def _healthy(self) -> Mapping[tuple[str, ...], float]:
        engines = self.told.engines.items()
        return {(model,): sum(one.values["healthy"] for one in replicas) for model, replicas in engines}


def _filled(metric: Metric, samples: Iterable[Sample]) -> Family:
    family = Family(metric.name, metric.help, metric.type)
    family.samples.extend(samples)
    return family


def _counted(metric: Metric, processes: Sequence[ProcessFigures]) -> Iterator[Sample]:
    for process in processes:
        for sample in process.samples[metric.name]:
            if sample.name in metric.samples:  # not when it was made, which prometheus_client adds
                yield sample._replace(labels={**sample.labels, REPLICA: process.replica})


def _by_labels(metric: Metric, values: Mapping[tuple[str, ...], float]) -> Iterator[Sample]:
    return (Sample(metric.name, dict(zip(metric.labels, of, strict=True)), value) for of, value in values.items())
