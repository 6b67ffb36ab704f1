"""One Triton for all tests here: small models that ONNX Runtime runs in it, and the probe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from build_engines.parts import Part
from serve.backends.triton import TritonBackend, TritonComponent
from serve.families.base import Family
from serve.settings import ModelSettings, TritonSettings
from serve.types import ComponentSpec
from tests import checkpoints
from tests.triton.probe import BOUNDED, add_probe
from tests.triton.repository import add_model
from tests.triton.server import Triton

THREADS = 1
WEIGHTS = Path("nowhere")
"""Of a component that is on the server: nobody reads them here."""
Load = Callable[..., TritonComponent]
"""By model and declaration; keywords are of `TritonSettings`."""


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="package")
def models(folder: Path) -> dict[str, ModelSettings]:
    weights = {
        "flux": ("flux_kontext", checkpoints.flux_kontext(folder / "flux")),
        "pixel": ("pixel_edit", checkpoints.pixel_edit(folder / "pixel")),
    }
    return {
        name: ModelSettings(
            id=name,
            family=family,
            weights=str(path),
            backend="triton",
            model_repository=folder / "repository",
            threads=THREADS,
        )
        for name, (family, path) in weights.items()
    }


@pytest.fixture(scope="package")
def built(models: dict[str, ModelSettings]) -> dict[str, tuple[Family, dict[str, Part]]]:
    return {name: add_model(model) for name, model in models.items()}


@pytest.fixture(scope="package")
def triton(folder: Path, built: dict[str, tuple[Family, dict[str, Part]]]) -> Iterator[Triton]:
    assert built
    add_probe(folder / "repository")
    add_probe(folder / "repository", "denoiser", lambda text: f"{text}\ndynamic_batching {{}}\n")
    add_probe(folder / "repository", "bounded", shapes=BOUNDED)
    server = Triton(folder / "repository", folder).start()
    yield server
    server.stop()


@pytest.fixture
def load(triton: Triton) -> Callable[..., TritonComponent]:
    def loaded(model: str, spec: ComponentSpec, **settings: object) -> TritonComponent:
        return backend(triton, model, **settings).load(spec, nn.Identity, WEIGHTS)

    return loaded


def backend(triton: Triton, model: str, **settings: object) -> TritonBackend:
    asked = TritonSettings.model_validate({"address": triton.address, **settings})
    return TritonBackend(ModelSettings(id=model, family="none", weights="none", triton=asked))
