"""What every test may ask for."""

from pathlib import Path

import pytest

from build_engines.build import Wish, build_model
from serve.settings import embedded_model

TESTS = Path(__file__).parent
SHARED_SERVERS = ("http", "storage", "triton")
"""Folders whose files share a server that takes long to start."""
CLIENTS_OF_TRITON = {"contract/test_backends.py": "triton"}
"""The tests of Triton look for shared memory that is left, of whichever process on this machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes run the tests, those that share fixtures run in one: of such a folder, or of a file."""
    for item in items:
        path = item.path.relative_to(TESTS)
        group = path.parts[0] if path.parts[0] in SHARED_SERVERS else CLIENTS_OF_TRITON.get(str(path), str(path))
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def embedded_engines() -> None:
    """The engines of the model that comes along, as `make` builds them; nothing is done where they are up to date."""
    build_model(embedded_model(), Wish(), lambda component, doing, share: None)
