"""What every test may ask for."""

import pytest

from build_engines.build import Wish, build_model
from serve.settings import embedded_model


@pytest.fixture(scope="session")
def embedded_engines() -> None:
    """The engines of the model that comes along, as `make` builds them; nothing is done where they are up to date."""
    build_model(embedded_model(), Wish(), lambda component, doing, share: None)
