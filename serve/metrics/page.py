"""`README.md` beside this file, made of the table."""

from collections.abc import Iterator
from pathlib import Path

from serve.metrics.table import SUFFIXES, TABLE, Metric, labels_of

PATH = Path(__file__).parent / "README.md"
COMMAND = "python -m serve.metrics"
_BEFORE = f"""# Metrics

`GET /metrics` answers in Prometheus' text form. Whichever process is asked, it tells the figures of all: one scrape of
one address has everything. `replica` names the process that counted, so that a counter falls only when its process is
another. A process that does not answer within 2 s is left out and counted in `retouch_silent_replicas`; a deployment
that Ray Serve knows no process of is left out whole, and `retouch_healthy_replicas` of its model is 0.

What Ray's proxy answers by itself, such as a 503 while no process that speaks HTTP runs, is in Ray's own metrics alone.

Made by `{COMMAND}`.
"""


def page() -> str:
    return "\n".join([_BEFORE, *(line for heading, metrics in TABLE.items() for line in _section(heading, metrics))])


def _section(heading: str, metrics: tuple[Metric, ...]) -> Iterator[str]:
    yield f"## {heading}\n"
    yield "| name | type | unit | labels | what it says |"
    yield "|---|---|---|---|---|"
    for metric in metrics:
        name = metric.name + SUFFIXES[metric.type][0] if metric.type == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in labels_of(metric))
        yield f"| `{name}` | {metric.type} | {metric.unit} | {labels} | {metric.help} |"
    yield ""
