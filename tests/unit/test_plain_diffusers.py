"""The baseline of plain diffusers answers what this server does, so that their figures compare equal work."""

import base64
import io
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.arrivals import Closed
from benchmarks.checkpoints import flux_kontext
from benchmarks.drive import Bounds, drive
from benchmarks.plain_diffusers import serving
from benchmarks.plan import MixedPlan
from benchmarks.wire import Server
from benchmarks.workload import Workload
from serve.engine.engine import Engine
from serve.engine.load import load_engine
from serve.families import facts_of
from serve.prepare import Origin, finish, prepare, read
from serve.settings import ModelSettings, Settings
from serve.types import Pixels
from tests import pictures

FEW = 0.02
"""The share of values that may differ, by one level of 255. The arithmetic is the same, but diffusers runs its
convolutions in another memory layout, which rounds 1e-6 differently: a value that lies between two levels falls to
either side. About 4 in 1000 do."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    weights = flux_kontext(tmp_path_factory.mktemp("kontext"))
    return ModelSettings(id="small", family="flux_kontext", weights=str(weights), threads=1, profile_s=0)


@pytest.fixture(scope="module")
def engine(model: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Engine]:
    before = torch.get_num_threads()
    loaded = load_engine(model, tmp_path_factory.mktemp("cache"))
    loaded.start()
    yield loaded
    loaded.drain(10)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(engine: Engine, model: ModelSettings) -> Generator[str]:
    assert engine.healthy()  # It has set the threads of this process, which the baseline shares.
    with serving(Path(model.weights)) as url:
        yield url


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size": "512x512"},
        {"n": 2, "guidance_scale": 4.0},
        {"strength": 0.5, "num_inference_steps": 4},
    ],
    ids=["reduced", "at the drawn size", "two results", "a strength"],
)
def test_it_answers_the_pictures_of_this_server(
    plain: str, engine: Engine, model: ModelSettings, fields: dict[str, Any]
) -> None:
    body = _body(**fields)
    theirs, ours = _theirs(plain, body), _ours(engine, model, body)
    assert len(theirs) == len(ours) == body.get("n", 1)
    for one, other in zip(theirs, ours, strict=True):
        _assert_alike(one, other)


def test_a_mask_that_ends_between_latent_cells_keeps_the_same_part(
    plain: str, engine: Engine, model: ModelSettings
) -> None:
    """Within a cell the two differ: diffusers takes its middle pixel, this server any that is not black."""
    source, mask = (pictures.base64_of(make((512, 512))) for make in (pictures.rgb, pictures.mask))
    body = _body(images=[source], mask=mask, size="512x512")
    (one,), (other,) = _theirs(plain, body), _ours(engine, model, body)
    _assert_alike(one, other)


def test_another_seed_is_another_picture(plain: str) -> None:
    (one,), (other,) = _theirs(plain, _body(seed=1)), _theirs(plain, _body(seed=2))
    assert (one != other).mean() > 10 * FEW


def test_it_says_that_it_is_there(plain: str) -> None:
    assert httpx.get(f"{plain}/healthz", trust_env=False).json() == {"status": "ok"}


async def test_the_harness_drives_it(plain: str) -> None:
    kinds = [{"name": "small", "size": "256x256", "steps": 1, "strength": 1.0, "guidance": 2.5, "sources": 2}]
    plan = MixedPlan(Workload.model_validate({"name": "test", "kinds": kinds}))
    run = await drive(Server(plain), plan, Closed(2), Bounds(requests=4))
    assert [record.outcome for record in run.records] == ["answered"] * 4
    assert all(record.stages_ms["denoise"] > 0 for record in run.records)
    assert run.facts["backend"] == "diffusers"


def _assert_alike(one: Pixels, other: Pixels) -> None:
    assert one.shape == other.shape
    differences = np.abs(one.astype(int) - other.astype(int))
    assert differences.max() <= 1
    assert differences.mean() <= FEW


def _body(**fields: Any) -> dict[str, Any]:
    picture = pictures.base64_of(pictures.rgb((256, 256)))
    return {
        "images": [picture],
        "prompt": "red",
        "size": "256x256",
        "seed": 7,
        "num_inference_steps": 2,
        "response_format": "b64_json",
        **fields,
    }


def _theirs(url: str, body: dict[str, Any]) -> list[Pixels]:
    answer = httpx.post(f"{url}/v1/images/edits", json=body, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    return [_pixels(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


def _ours(engine: Engine, model: ModelSettings, body: dict[str, Any]) -> list[Pixels]:
    settings = Settings(models=(model,))
    prepared = prepare(read(json.dumps(body).encode()), Origin("test"), settings, {model.id: facts_of(model)})
    assert prepared.job is not None
    result = engine.submit(prepared.job).result(120)
    return [_pixels(file) for file in finish(prepared.frame, result.images)]


def _pixels(file: bytes) -> Pixels:
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB"))
