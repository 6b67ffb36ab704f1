"""The dashboard and the alerts: they ask for what there is, and the alerts come when they should and not else."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from serve.metrics import TABLE
from tests.k8s import prometheus
from tests.k8s.rendering import K8S, Manifest, of_kind, with_component

QUERIES = prometheus.queries()
ALERTS = {alert["alert"]: alert for alert in prometheus.alerts()}
TESTS = Path(__file__).parent / "alerts.yaml"


@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_a_query_asks_for_metrics_and_labels_that_there_are(query: str) -> None:
    assert prometheus.faults(query) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("rate(retouch_request_total[5m])", "there is no retouch_request_total"),
        ("rate(retouch_requests[5m])", "there is no retouch_requests"),
        ('retouch_healthy_replicas{replica="a"}', "retouch_healthy_replicas has no label replica"),
        ("sum by (mode) (retouch_engine_healthy)", "nothing has the label mode"),
        ("retouch_engine_healthy > 0 and up", "there is no up"),
    ],
)
def test_a_query_that_asks_for_what_there_is_not_is_seen(query: str, fault: str) -> None:
    assert prometheus.faults(query) == [fault]


def test_a_query_that_is_none_is_seen() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        prometheus.faults("sum by (model (retouch_engine_healthy)")


def test_prometheus_takes_the_rules_and_the_dashboards_queries(tmp_path: Path) -> None:
    records = [{"record": f"query_{place}", "expr": query} for place, query in enumerate(QUERIES.values())]
    groups = [*prometheus.rules()["groups"], {"name": "dashboard", "rules": records}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    told = promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.yaml")
    assert f"{len(ALERTS) + len(records)} rules found" in told


def test_alerts_fire_when_they_should_and_not_else(tmp_path: Path) -> None:
    assert "SUCCESS" in alerts_tested(prometheus.rules(), tmp_path)


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    seen = [one for test in yaml.safe_load(TESTS.read_text())["tests"] for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in seen if one["exp_alerts"]} == set(ALERTS)
    assert {one["alertname"] for one in seen if not one["exp_alerts"]} == set(ALERTS)


def test_an_alert_that_does_not_fire_in_time_is_seen(tmp_path: Path) -> None:
    rules = prometheus.rules()
    rules["groups"][0]["rules"][0]["for"] = "10h"
    with pytest.raises(AssertionError, match=rules["groups"][0]["rules"][0]["alert"]):
        alerts_tested(rules, tmp_path)


def test_the_dashboard_answers_in_order_and_says_what_to_do() -> None:
    assert [row["title"] for row, _ in prometheus.sections()] == ["Is it slow?", "Where?", "Why?", "What do I do?"]
    for _, panels in prometheus.sections():
        assert panels
        assert all(panel["description"].endswith(".") for panel in panels)


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = prometheus.dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # Grafana's columns


def test_the_dashboard_names_every_part_of_the_runbook_that_alerts_name() -> None:
    (text,) = (panel["options"]["content"] for panel in prometheus.dashboard()["panels"] if panel["type"] == "text")
    anchors = {alert["annotations"]["runbook_url"].partition("#")[2] for alert in ALERTS.values()}
    assert set(re.findall(r"`#([a-z0-9-]+)`", text)) == anchors


def test_the_runbook_has_what_alerts_lead_to() -> None:
    headings = re.findall(r"^#+ (.+)$", (K8S / "README.md").read_text(encoding="utf-8"), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    urls = {alert["annotations"]["runbook_url"] for alert in ALERTS.values()}
    assert {url.removeprefix("k8s/README.md#") for url in urls} <= anchors


def test_the_runbook_names_metrics_that_there_are() -> None:
    text = (K8S / "README.md").read_text(encoding="utf-8")
    known = {*prometheus.LABELS, *(metric.name for metrics in TABLE.values() for metric in metrics)}
    assert set(re.findall(r"`(retouch_\w+)", text)) <= known


def test_grafana_finds_the_dashboard_by_its_label(tmp_path: Path) -> None:
    maps = of_kind(with_component("gpu-node", "monitoring", tmp_path), "ConfigMap")
    (one,) = (found for found in maps if found["metadata"].get("labels", {}).get("grafana_dashboard") == "1")
    assert one["metadata"]["namespace"] == "retouch"
    assert one["data"]["retouch.json"] == (K8S / "components" / "monitoring" / "retouch.json").read_text()


def alerts_tested(rules: Manifest, folder: Path) -> str:
    """What promtool says. Of what alerts tell, it is told the summary alone, which values go into."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / TESTS.name).write_bytes(TESTS.read_bytes())
    return promtool("test", "rules", folder / TESTS.name)


def promtool(*arguments: str | Path) -> str:
    command = [prometheus.program("promtool"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
