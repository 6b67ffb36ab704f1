"""What the server says of itself to Prometheus: one table of metrics, and how each process fills its part of it."""

from serve.metrics.codec import CodecCounts
from serve.metrics.exposition import CONTENT_TYPE, EngineFigures, ProcessFigures, Told, exposition
from serve.metrics.requests import CLIENT_CLOSED, OK, End, OpenRequest, RequestCounts, end_of
from serve.metrics.table import ENGINE, TABLE, EngineMetric, Metric

__all__ = [
    "CLIENT_CLOSED",
    "CONTENT_TYPE",
    "ENGINE",
    "OK",
    "TABLE",
    "CodecCounts",
    "End",
    "EngineFigures",
    "EngineMetric",
    "Metric",
    "OpenRequest",
    "ProcessFigures",
    "RequestCounts",
    "Told",
    "end_of",
    "exposition",
]
