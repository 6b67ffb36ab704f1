"""The table of metrics against the engine's own figures, and the text that comes of it against Prometheus' parser."""

from collections import Counter
from dataclasses import fields

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.deployments.engines import longest_queue_s
from serve.engine.engine import EngineStats
from serve.metrics import FAMILIES, PREFIX, EngineFigures, exposition

FIELDS = [field for family in FAMILIES for field in family.fields.values()]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def figures(replica: str, first: float) -> EngineFigures:
    """Every field has a value of its own, from `first` on."""
    return EngineFigures(replica, {name: first + place for place, name in enumerate(FIELDS)})


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
    found = parsed(exposition(engines))
    assert sorted(found.values()) == sorted(
        value for told in engines.values() for one in told for value in one.values.values()
    )
    for family in FAMILIES:
        for labels, field in family.fields.items():
            kind = [("kind", label) for label in labels]
            suffix = "_total" if family.type.__name__.startswith("Counter") else ""
            name = f"{PREFIX}{family.name}{suffix}"
            for model, replicas in engines.items():
                for one in replicas:
                    key = (name, tuple(sorted([("model", model), ("replica", one.replica), *kind])))
                    assert found[key] == one.values[field]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("retouch_engine_row_steps", "counter"),
        ("retouch_engine_cache_hits", "counter"),
        ("retouch_engine_queued_seconds", "gauge"),
        ("retouch_engine_healthy", "gauge"),
    ],
)
def test_a_metric_is_told_with_its_type_and_what_it_means(name: str, kind: str):
    told = {
        family.name: family for family in text_string_to_metric_families(exposition({"a": [figures("1", 0)]}).decode())
    }
    assert told[name].type == kind
    assert told[name].documentation.endswith(".")


def test_a_counter_goes_by_prometheus_rule_of_names():
    names = {name for name, _ in parsed(exposition({"a": [figures("1", 0)]}))}
    assert {
        "retouch_engine_steps_total",
        "retouch_engine_refused_jobs_total",
        "retouch_engine_cache_misses_total",
    } <= names
    assert {"retouch_engine_waiting_rows", "retouch_engine_memory_budget_bytes"} <= names


def test_a_model_of_which_no_replica_answers_is_left_out():
    found = parsed(exposition({"silent": [], "b": [figures("b1", 0)]}))
    assert {dict(labels)["model"] for _, labels in found} == {"b"}


def test_labels_may_hold_any_text():
    model = 'acme/"kontext"\\\n'
    (labels,) = {labels for name, labels in parsed(exposition({model: [figures("1", 0)]})) if name.endswith("healthy")}
    assert dict(labels)["model"] == model


def queue(seconds: float) -> EngineFigures:
    return EngineFigures("1", {"queued_s": seconds})


def test_the_longest_queue_is_that_of_the_model_with_most_work_for_each_replica():
    assert longest_queue_s({"a": [queue(10)], "b": [queue(30), queue(0)]}) == 15.0
    assert longest_queue_s({"a": [], "b": [queue(3)]}) == 3.0
    assert longest_queue_s({"a": []}) == 0.0
