"""What every test may ask for."""

import os
from collections.abc import Iterator

import pytest
from filelock import FileLock

from build_engines.build import Wish, build_model
from serve.settings import embedded_model

os.environ.setdefault("RAY_worker_niceness", "0")
"""Ray has its workers yield to all else on a machine; a cluster beside another test's build would never come up."""


@pytest.fixture(scope="session")
def embedded_engines() -> None:
    """The engines of the model that comes along, as `make` builds them; nothing is done where they are up to date."""
    build_model(embedded_model(), Wish(), lambda component, doing, share: None)


@pytest.fixture(scope="module")
def only_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Waits for other modules' clusters, where modules run side by side: each cluster has some fifty processes."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "cluster.lock"):
        yield
