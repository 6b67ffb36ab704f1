"""What the component for monitoring asks Prometheus: its queries, and what promtool is given of its alerts."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import promql_parser
import pytest
import yaml

from serve.metrics import TABLE
from serve.metrics.table import labels_of
from tests.k8s.rendering import K8S, Manifest

MONITORING = K8S / "components" / "monitoring"
SCRAPERS = {"namespace", "pod", "job", "instance", "ray_io_cluster"}
"""Labels that the scraper adds."""
ALERTS_OWN = {"alertname", "alertstate", "severity"}
LABELS = {
    name: {*labels_of(metric), *SCRAPERS, *({"le"} if name.endswith("_bucket") else ())}
    for metrics in TABLE.values()
    for metric in metrics
    for name in metric.samples
} | {"ALERTS": ALERTS_OWN | SCRAPERS}
"""Of every name that a query may ask for."""


def program(name: str) -> str:
    """Where it is. Without Prometheus tests are skipped, but in CI."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        raise AssertionError(f"CI needs {name}; Debian has it in the package prometheus")
    if found is None:
        pytest.skip(f"there is no {name} here; Debian has it in the package prometheus")
    return found


def dashboard() -> Manifest:
    return json.loads((MONITORING / "retouch.json").read_text(encoding="utf-8"))


def panels() -> list[Manifest]:
    """Those that ask something."""
    return [panel for panel in dashboard()["panels"] if "targets" in panel]


def rules() -> Manifest:
    """As Prometheus' own files have them."""
    return yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]


def alerts() -> list[Manifest]:
    return [rule for group in rules()["groups"] for rule in group["rules"]]


def filled(query: str) -> str:
    """A dashboard's query, with its variables as Grafana would fill them in."""
    return query.replace("$__rate_interval", "5m").replace("$model", ".*")


def queries() -> Mapping[str, str]:
    """All, by where they are."""
    asked = {
        f"{panel['title']} {target['refId']}": filled(target["expr"])
        for panel in panels()
        for target in panel["targets"]
    }
    return asked | {rule["alert"]: rule["expr"] for rule in alerts()}


def faults(query: str) -> list[str]:
    """Names and labels of a query that no metric has. Raises ValueError for what is no PromQL."""
    selectors, grouped = _parts(promql_parser.parse(query))
    found = [f"there is no {one.name}" for one in selectors if one.name not in LABELS]
    known = [one for one in selectors if one.name in LABELS]
    found += [
        f"{one.name} has no label {matcher.name}"
        for one in known
        for matcher in one.matchers.matchers
        if matcher.name not in LABELS[one.name or ""]
    ]
    for labels in grouped:
        shared = set[str]().union(*(LABELS[one.name or ""] for one in known))
        found += [f"nothing has the label {label}" for label in labels if label not in shared]
    return found


def _parts(expression: promql_parser.Expr) -> tuple[list[promql_parser.VectorSelector], list[list[str]]]:
    """What it selects, and what it groups by."""
    selectors: list[promql_parser.VectorSelector] = []
    grouped: list[list[str]] = []

    def visit(node: Any) -> None:
        match node:
            case promql_parser.VectorSelector():
                selectors.append(node)
            case promql_parser.AggregateExpr() if node.modifier is not None:
                grouped.append(list(node.modifier.labels))
            case _:
                pass

    promql_parser.walk(expression, visit)
    return selectors, grouped


def sections() -> Iterator[tuple[Manifest, list[Manifest]]]:
    """The rows of the dashboard, each with its panels."""
    row: Manifest | None = None
    held: list[Manifest] = []
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            if row is not None:
                yield row, held
            row, held = panel, []
        else:
            held.append(panel)
    assert row is not None
    yield row, held
