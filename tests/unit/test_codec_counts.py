"""What a codec's process counts of its threads and of the store."""

from concurrent.futures import Future

import pytest

from serve.errors import BackendUnavailable
from serve.metrics import CodecCounts


def value(counts: CodecCounts, name: str) -> float:
    """Of the sample with that name."""
    samples = [sample for samples in counts.figures("r").samples.values() for sample in samples]
    return next(sample.value for sample in samples if sample.name == f"retouch_{name}")


def test_work_is_counted_from_when_it_waits_until_it_has_ended() -> None:
    counts = CodecCounts(threads=3)
    tasks = [Future[None]() for _ in range(2)]
    for task in tasks:
        counts.watch(task)
    assert value(counts, "codec_tasks") == 2
    tasks[0].set_result(None)
    tasks[1].cancel()
    assert value(counts, "codec_tasks") == 0
    assert value(counts, "codec_threads") == 3


def test_an_image_is_stored_or_its_failure_counted() -> None:
    counts = CodecCounts(threads=1)
    with counts.storing():
        pass
    with pytest.raises(BackendUnavailable), counts.storing():
        raise BackendUnavailable("the store is away")
    assert (value(counts, "stored_images_total"), value(counts, "store_failures_total")) == (1, 1)
