"""One S3 for all tests of the folder, and both stores behind one face."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from serve.settings import StorageSettings
from serve.storage import ObjectStore
from tests.storage.ceph import ACCESS_KEY, SECRET_KEY, Ceph

BUCKET = "results"
PREFIX = "edits/today"


def bucket_settings(endpoint: str, options: Mapping[str, str | bool] | None = None, **keys: Any) -> StorageSettings:
    """Of the bucket at that endpoint, which may be plain HTTP. options: beside it. keys: instead of those here."""
    known = {"endpoint": endpoint, "region": "us-east-1", "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    given: dict[str, Any] = {
        "url": f"s3://{BUCKET}/{PREFIX}",
        "client_options": {"allow_http": True, "timeout": "2s"},
        "retry_s": 1,
        **keys,
    }
    return StorageSettings(options={**known, **(options or {})}, **given)


@pytest.fixture(scope="session")
def running_ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    ceph = Ceph(tmp_path_factory.mktemp("ceph"))
    try:
        ceph.start()
        ceph.make_bucket(BUCKET)
        yield ceph
    finally:
        ceph.stop()


@pytest.fixture
def ceph(running_ceph: Ceph) -> Iterator[Ceph]:
    """With a gateway that answers, whatever the test before has done to it."""
    running_ceph.ensure_gateway()
    yield running_ceph
    running_ceph.ensure_gateway()


@pytest.fixture
def store(ceph: Ceph) -> ObjectStore:
    return ObjectStore(bucket_settings(ceph.endpoint))
