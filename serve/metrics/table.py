"""Every metric: its name, type, unit and labels, and what it says. `README.md` beside this file is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Type = Literal["counter", "gauge", "histogram"]
SUFFIXES: Mapping[Type, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
REPLICA = "replica"

REQUEST_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
"""The last is what a request may take, where the configuration says nothing else."""

STAGE_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0)
STAGES = ("queue", "decode", "encode", "denoise", "vae", "png", "store")
"""In the order of a request; all but the last are those of `server-timing`."""


@dataclass(frozen=True, slots=True)
class Metric:
    """name: without what Prometheus adds to it by type. labels: without `REPLICA`. buckets: upper bounds, of a
    histogram.
    """

    type: Type
    name: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def samples(self) -> tuple[str, ...]:
        """The names by which queries ask for it."""
        return tuple(self.name + suffix for suffix in SUFFIXES[self.type])


@dataclass(frozen=True, slots=True)
class EngineMetric(Metric):
    """fields: of `EngineStats`, each with the labels that it adds to `model`."""

    fields: Mapping[tuple[str, ...], str] = field(kw_only=True)


def _counter(name: str, unit: str, of: str, text: str) -> EngineMetric:
    return EngineMetric("counter", f"retouch_engine_{name}", unit, text, ("model",), fields={(): of})


def _gauge(name: str, unit: str, of: str, text: str) -> EngineMetric:
    return EngineMetric("gauge", f"retouch_engine_{name}", unit, text, ("model",), fields={(): of})


def _counter_by_kind(name: str, unit: str, fields: Mapping[str, str], text: str) -> EngineMetric:
    by_labels = {(kind,): of for kind, of in fields.items()}
    return EngineMetric("counter", f"retouch_engine_{name}", unit, text, ("model", "kind"), fields=by_labels)


REQUESTS_ENDED = Metric(
    "counter",
    "retouch_requests",
    "requests",
    "Requests for edits that have ended, by their HTTP status and the error's code: ok without an error, client_closed "
    "with status 499 where the caller left. An error within a stream counts as if it had been the answer. model is - "
    "where the request was refused before its model was known.",
    ("model", "status", "code"),
)
REQUEST_SECONDS = Metric(
    "histogram",
    "retouch_request_seconds",
    "seconds",
    "From the head of a request to the last byte of its answer, of edits that succeeded.",
    ("model",),
    REQUEST_BUCKETS_S,
)
STAGE_SECONDS = Metric(
    "histogram",
    "retouch_stage_seconds",
    "seconds",
    "Time of an edit that succeeded in one stage; stages that it did not need are left out.",
    ("model", "stage"),
    STAGE_BUCKETS_S,
)
IMAGES = Metric("counter", "retouch_images", "images", "Images of edits that succeeded.", ("model",))
REPLAYED = Metric(
    "counter",
    "retouch_replayed_requests",
    "requests",
    "Requests that got the answer of an earlier one which was the same.",
    ("model",),
)
IN_FLIGHT = Metric("gauge", "retouch_requests_in_flight", "requests", "Requests for edits that have not ended.")
RECEIVED = Metric("counter", "retouch_received_bytes", "bytes", "Bodies of requests for edits, as far as they came.")
SENT = Metric(
    "counter",
    "retouch_sent_bytes",
    "bytes",
    "Answers that were sent: to requests for edits, and files that links led to.",
    ("route",),
)
REQUESTS = (
    REQUESTS_ENDED,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    IMAGES,
    REPLAYED,
    IN_FLIGHT,
    RECEIVED,
    SENT,
)

CODEC_THREADS = Metric("gauge", "retouch_codec_threads", "threads", "Threads that decode and encode pictures.")
CODEC_TASKS = Metric(
    "gauge", "retouch_codec_tasks", "tasks", "Pieces of such work that run or wait for one of those threads."
)
STORED = Metric("counter", "retouch_stored_images", "images", "Images that the store of results took.")
STORE_FAILURES = Metric(
    "counter", "retouch_store_failures", "images", "Images that it did not take; their requests failed."
)
CODEC = (CODEC_THREADS, CODEC_TASKS, STORED, STORE_FAILURES)

ENGINE = (
    _counter("jobs", "edits", "jobs", "Edits that were taken."),
    _counter("begun_jobs", "edits", "begun_jobs", "Edits that have run their first step."),
    _counter("wait_seconds", "seconds", "waited_s", "Time that these waited for it, their encoding left out."),
    _counter("work_seconds", "seconds", "came_s", "Work of edits that were taken, in estimated seconds."),
    _counter("steps", "steps", "steps", "Batches that were run."),
    _counter_by_kind(
        "busy_seconds",
        "seconds",
        {"encode": "encode_s", "steps": "steps_s", "decode": "decode_s", "previews": "preview_s"},
        "Time that the device worked. What is missing to a second a second is idleness.",
    ),
    _counter("row_steps", "rows", "row_steps", "Rows, summed over the batches that were run."),
    _counter("passes", "passes", "passes", "Passes through the denoiser, which its batches consist of."),
    _counter("filler_passes", "passes", "filler_passes", "Those of them that only filled a batch up."),
    _counter(
        "wasted_row_steps", "rows", "wasted_row_steps", "Of row_steps, those of edits that ended without a result."
    ),
    _counter("cancelled_rows", "rows", "cancelled_rows", "Rows of edits whose callers left."),
    _counter("refused_jobs", "edits", "refused_jobs", "Edits refused for a full queue or their deadline."),
    _counter(
        "out_of_memory",
        "calls",
        "out_of_memory",
        "Calls that found no memory on the device and were tried again in smaller parts.",
    ),
    _counter_by_kind(
        "cache_hits",
        "encodings",
        {"text": "text_hits", "image": "image_hits"},
        "Encodings of prompts and pictures that were found in the cache.",
    ),
    _counter_by_kind(
        "cache_misses",
        "encodings",
        {"text": "text_misses", "image": "image_misses"},
        "Encodings of prompts and pictures that had to be made.",
    ),
    _gauge("waiting_rows", "rows", "waiting_rows", "Rows that are not begun."),
    _gauge("running_rows", "rows", "running_rows", "Rows that are begun and not finished."),
    _gauge("queued_seconds", "seconds", "queued_s", "Work of all rows, in estimated seconds."),
    _gauge(
        "knee_passes",
        "passes",
        "knee_passes",
        "Passes beyond which a batch like the last one gains nothing; 0 before the first.",
    ),
    _gauge(
        "limit_passes",
        "passes",
        "limit_passes",
        "Passes that such a batch may have now; fewer than that where memory is short.",
    ),
    _gauge("cache_bytes", "bytes", "cache_bytes", "Encodings in the cache."),
    _gauge("memory_used_bytes", "bytes", "memory_used_bytes", "Memory of the device in use."),
    _gauge("memory_peak_bytes", "bytes", "memory_peak_bytes", "Most memory of the device that was in use."),
    _gauge("memory_budget_bytes", "bytes", "memory_budget_bytes", "Memory of the device that the process may fill."),
    _gauge("memory_held_bytes", "bytes", "memory_held_bytes", "Memory of the device that begun rows hold."),
    _gauge("healthy", "0 or 1", "healthy", "1 while edits that were taken are being worked on."),
)

HEALTHY_REPLICAS = Metric(
    "gauge", "retouch_healthy_replicas", "replicas", "Replicas of a model that answered as healthy.", ("model",)
)
LEAST_REPLICAS = Metric(
    "gauge", "retouch_least_replicas", "replicas", "Replicas that the configuration wants at least.", ("model",)
)
SILENT_REPLICAS = Metric(
    "gauge",
    "retouch_silent_replicas",
    "replicas",
    "Running replicas that did not answer in time, so that their figures are missing: they hang, or have all the "
    "requests that they may have at a time. model is empty for those of no model.",
    ("deployment", "model"),
)
FLEET = (HEALTHY_REPLICAS, LEAST_REPLICAS, SILENT_REPLICAS)

TABLE: Mapping[str, tuple[Metric, ...]] = {
    "Requests, of each process that speaks HTTP": REQUESTS,
    "Pictures and the store, of each process that decodes and encodes": CODEC,
    "The engine, of each replica of a model": ENGINE,
    "All together, of whichever process is asked": FLEET,
}
"""By the headings of `README.md`."""


def labels_of(metric: Metric) -> tuple[str, ...]:
    """All that its samples have, but for a bucket's bound."""
    return metric.labels if metric in FLEET else (*metric.labels, REPLICA)
