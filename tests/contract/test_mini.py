"""The new embedded model's checkpoint: diffusers loads it, and the server feeds it what its training did."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from torch import Tensor, nn

from embedded_model.mini.autoencoder import SCALE, new_autoencoder
from embedded_model.mini.batches import sentences
from embedded_model.mini.blocks import BlockTransform, fit, write_into
from embedded_model.mini.edit_stage import pack
from embedded_model.mini.export import export
from embedded_model.mini.network import TEXT_TOKENS, Shape, Tokenizers, new_networks, train_tokenizers
from embedded_model.mini.places import positions
from embedded_model.mini.sampling import edited
from serve.backends.torch import TorchBackend
from serve.families import load_family
from serve.families.base import Sample
from serve.families.flux_kontext import FluxKontext
from serve.settings import ModelSettings
from serve.types import EditJob
from tests.stages import run_alone

PROMPT = "make it look old"


@pytest.fixture(scope="module")
def transform() -> BlockTransform:
    rough = torch.rand((32, 3, 72, 72), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return fit(nn.functional.avg_pool2d(rough, 9, stride=1) * 3)


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return train_tokenizers(sentences(400))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, transform: BlockTransform, tokenizers: Tokenizers) -> Path:
    torch.manual_seed(0)
    autoencoder = new_autoencoder()
    write_into(autoencoder.encoder, transform)
    networks = new_networks(tokenizers, Shape(1, 1, 1, 1))
    nn.init.normal_(cast(Any, networks["transformer"]).proj_out.weight, std=0.05)  # as built it draws nothing
    written = tmp_path_factory.mktemp("mini")
    export(networks, autoencoder, tokenizers, written)
    return written


@pytest.fixture(scope="module")
def family(folder: Path) -> FluxKontext:
    model = ModelSettings.model_validate({"id": "mini", "family": "flux_kontext_mini", "weights": str(folder)})
    return cast(FluxKontext, load_family(model, TorchBackend("cpu", "float32", threads=1)))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def test_the_server_draws_what_the_plain_pipeline_draws(folder: Path, family: FluxKontext, pictures: Any):
    pipeline: Any = FluxKontextPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    planes = torch.tensor(pictures[:1]).permute(0, 3, 1, 2) / 255

    expected = edited(pipeline, planes, [PROMPT], steps=3, seed=5)[0].permute(1, 2, 0).numpy()

    sample = _begun(family, pictures[:1], seed=5)
    while sample.remaining:
        run_alone(family.step(sample))
    drawn = run_alone(family.decode(sample))
    assert np.abs(drawn / 255 - expected).max() < 1.5 / 255
    assert np.abs(drawn.astype(int) - pictures[0]).mean() > 1


def test_the_server_reads_words_as_training_did(family: FluxKontext, tokenizers: Tokenizers):
    clip, t5 = (call.inputs["ids"] for call in next(iter(family.encode_text(PROMPT))))

    for read, tokenizer in ((clip, tokenizers.clip), (t5, tokenizers.t5)):
        taught = cast(Any, tokenizer)(PROMPT, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt")
        assert torch.equal(read, taught.input_ids)


def test_the_server_gives_the_transformer_pictures_and_places_as_training_did(
    family: FluxKontext, transform: BlockTransform, pictures: Any
):
    """A second picture lies where training had it. What the transformer reads, its first layer takes the scale from."""
    sample = _begun(family, pictures, seed=5)
    (call,) = next(iter(family.step(sample)))

    encoded = [transform.encode(torch.tensor(picture).permute(2, 0, 1)[None] / 127.5 - 1) for picture in pictures]
    assert torch.allclose(call.inputs["references"] / SCALE, torch.cat([*map(pack, encoded)], 1), atol=0.02)
    places = torch.cat([torch.zeros(TEXT_TOKENS, 3), positions(encoded[0], encoded)])
    assert torch.equal(call.inputs["rotary"][0], torch.cat(FluxPosEmbed(10_000, [16, 24, 24])(places), -1))


def _begun(family: FluxKontext, pictures: Any, seed: int) -> Sample:
    job = EditJob("request", PROMPT, pictures[0], tuple(pictures[1:]), None, (seed,), 3, 1.0, 1.0)
    images: list[Tensor] = [run_alone(family.encode_image(picture)) for picture in pictures]
    return family.begin(job, [run_alone(family.encode_text(PROMPT))], images, seed)
