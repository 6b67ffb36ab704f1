"""The table of metrics against what is told, and the text that comes of it against Prometheus' parser."""

from collections import Counter
from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.deployments.engines import longest_queue_s
from serve.engine.engine import EngineStats
from serve.metrics import ENGINE, TABLE, CodecCounts, EngineFigures, Metric, RequestCounts, Told, exposition
from serve.metrics.page import PATH, page
from serve.metrics.table import labels_of

FIELDS = [field for metric in ENGINE for field in metric.fields.values()]
METRICS = [metric for metrics in TABLE.values() for metric in metrics]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def figures(replica: str, first: float) -> EngineFigures:
    """Every field has a value of its own, from `first` on."""
    return EngineFigures(replica, {name: first + place for place, name in enumerate(FIELDS)})


def told(engines: dict[str, list[EngineFigures]]) -> bytes:
    return exposition(Told([], [], engines, {}, {}))


def parsed(text: bytes) -> Samples:
    """By the sample's name and labels."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_figure_of_the_engine_is_told_once():
    assert Counter(FIELDS) == Counter(field.name for field in fields(EngineStats))


def test_every_replica_of_every_model_has_its_line_of_every_figure():
    engines = {"a": [figures("a1", 0), figures("a2", 100)], "b": [figures("b1", 200)]}
    found = parsed(told(engines))
    for metric in ENGINE:
        for labels, field in metric.fields.items():
            kind = [("kind", label) for label in labels]
            for model, replicas in engines.items():
                for one in replicas:
                    key = (metric.samples[0], tuple(sorted([("model", model), ("replica", one.replica), *kind])))
                    assert found.pop(key) == one.values[field]
    assert {name for name, _ in found} == {"retouch_healthy_replicas"}


def test_a_metric_is_told_with_its_type_what_it_means_and_the_labels_of_the_table():
    requests, codec = RequestCounts(["a"]).figures("i"), CodecCounts(2).figures("c")
    text = exposition(Told([requests], [codec], {"a": [figures("1", 0)]}, {"a": 1}, {("codec", ""): 0}))
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert set(families) == {metric.name for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        assert {sample.name for sample in family.samples} == set(metric.samples)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels_of(metric))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_goes_by_prometheus_rules_and_what_it_says_is_a_sentence(metric: Metric):
    assert metric.name.startswith("retouch_")
    assert metric.help.endswith(".")
    for unit in ("seconds", "bytes"):
        assert (metric.unit == unit) == metric.name.endswith(f"_{unit}")


def test_no_two_metrics_have_the_same_name():
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_page_tells_what_the_table_holds():
    assert PATH.read_text(encoding="utf-8") == page(), "python -m serve.metrics writes it"


def test_a_model_of_which_no_replica_answers_has_none_that_is_healthy_and_no_figures():
    found = parsed(exposition(Told([], [], {"silent": [], "b": [figures("b1", 0)]}, {"silent": 2, "b": 0}, {})))
    assert {dict(labels)["model"] for name, labels in found if name.startswith("retouch_engine")} == {"b"}
    assert found["retouch_healthy_replicas", (("model", "silent"),)] == 0
    assert found["retouch_least_replicas", (("model", "silent"),)] == 2


def test_only_replicas_that_say_so_are_healthy():
    sick = EngineFigures("2", {**figures("2", 0).values, "healthy": 0})
    well = EngineFigures("1", {**figures("1", 0).values, "healthy": 1})
    assert parsed(told({"a": [sick, well, sick]}))["retouch_healthy_replicas", (("model", "a"),)] == 1


def test_labels_may_hold_any_text():
    model = 'acme/"kontext"\\\n'
    (labels,) = {labels for name, labels in parsed(told({model: [figures("1", 0)]})) if name.endswith("engine_healthy")}
    assert dict(labels)["model"] == model


def queue(seconds: float) -> EngineFigures:
    return EngineFigures("1", {"queued_s": seconds})


def test_the_longest_queue_is_that_of_the_model_with_most_work_for_each_replica():
    assert longest_queue_s({"a": [queue(10)], "b": [queue(30), queue(0)]}) == 15.0
    assert longest_queue_s({"a": [], "b": [queue(3)]}) == 3.0
    assert longest_queue_s({"a": []}) == 0.0
