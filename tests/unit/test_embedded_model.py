"""The embedded model: what it is taught, how its network behaves untrained, and that its checkpoint edits a picture."""

import json
import random
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from embedded_model.batches import EDIT_NAMES, EditBatches
from embedded_model.data import Photograph
from embedded_model.editors import CheckpointEditor
from embedded_model.edits import EDITS, IDENTITY, Picture, apply
from embedded_model.evaluate import all_targets, nearest_edit, psnr_db
from embedded_model.phrases import (
    ADJECTIVE_FRAMES,
    COMMAND_FRAMES,
    HELD_OUT_ADJECTIVE_FRAMES,
    HELD_OUT_COMMAND_FRAMES,
    HELD_OUT_UNKNOWN,
)
from embedded_model.sampling import add_noise, partial_edit_target, schedule
from embedded_model.tokenizer import PAD
from embedded_model.wordings import held_out_prompts, train_prompt, unknown_prompt
from serve.families.pixel_edit_unet import PixelEditUNet, latents_to_pixels, pixels_to_latents

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "embedded_model" / "checkpoint"
MAX_CHECKPOINT_BYTES = 40 * 1024 * 1024


@pytest.fixture
def picture() -> Picture:
    """Smooth colours over the whole range, (2, 48, 32, 3)."""
    corners = np.random.default_rng(0).integers(0, 256, (2, 3, 2, 3), dtype=np.uint8)
    enlarged = [np.asarray(Image.fromarray(c).resize((32, 48), Image.Resampling.BICUBIC)) for c in corners]
    return np.stack(enlarged).astype(np.float32) / np.float32(255)


@pytest.fixture
def network() -> PixelEditUNet:
    """A small network whose head is not zero, so that inputs show in its output."""
    torch.manual_seed(0)
    network = PixelEditUNet(channels=(16, 32, 32), conditioning_dim=32, text_dim=24).eval()
    torch.nn.init.normal_(network.outlet.change.weight, std=0.1)
    return network


def inputs(batch: int, side: int = 16, text_dim: int = 24) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latents, source = (torch.randn(batch, 48, side, side, generator=generator) for _ in range(2))
    text = torch.randn(batch, 32, text_dim, generator=generator)
    mask = torch.ones(batch, 32, dtype=torch.int64)
    mask[:, 5:] = 0
    return latents, source, torch.rand(batch, generator=generator), text, mask


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_keeps_shape_type_and_range(edit: str, picture: Picture):
    before = picture.copy()
    edited = apply(picture, [edit])
    assert edited.shape == picture.shape
    assert edited.dtype == np.float32
    assert edited.min() >= 0
    assert edited.max() <= 1
    assert np.array_equal(picture, before)


def test_every_two_edits_differ_visibly(picture: Picture):
    targets = {edit: apply(picture, [edit]) for edit in EDITS if edit != "blur"}  # nothing to blur in this picture
    for a, b in combinations(targets, 2):
        assert psnr_db(targets[a], targets[b]) < 30, (a, b)


def test_a_batch_is_edited_as_its_pictures_are(picture: Picture):
    for edit in EDITS:
        alone = np.stack([apply(p, [edit]) for p in picture])
        assert np.allclose(apply(picture, [edit]), alone, atol=1e-6), edit


def test_held_out_frames_are_not_trained_on():
    assert not set(ADJECTIVE_FRAMES) & set(HELD_OUT_ADJECTIVE_FRAMES)
    assert not set(COMMAND_FRAMES) & set(HELD_OUT_COMMAND_FRAMES)


def test_held_out_sentences_are_not_trained_on():
    rng = random.Random(0)
    held_out = {s for edit in EDITS for s in held_out_prompts(edit)} | set(HELD_OUT_UNKNOWN)
    trained = {train_prompt([edit], rng) for edit in EDITS for _ in range(300)}
    trained |= {unknown_prompt(rng) for _ in range(500)}
    assert not held_out & trained


def test_a_held_out_sentence_asks_for_one_edit():
    sentences = [s for edit in EDITS for s in set(held_out_prompts(edit))]
    assert len(sentences) == len(set(sentences))
    assert all(len(held_out_prompts(edit)) >= 20 for edit in EDITS)


def test_a_batch_depends_on_seed_and_step_alone():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT / "tokenizer")
    pixels = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    photographs = [Photograph("noise", (pixels,))]
    first, again = (EditBatches(photographs, tokenizer, 8, 32, seed=3)[7] for _ in range(2))
    assert torch.equal(first.edited, again.edited)
    assert torch.equal(first.ids, again.ids)
    assert first.labels.shape == (8, len(EDIT_NAMES))


def test_latents_are_lossless():
    pixels = torch.rand(2, 3, 32, 48)
    assert torch.equal(latents_to_pixels(pixels_to_latents(pixels, 4), 4), pixels)


def test_an_untrained_network_is_the_identity():
    latents, source, sigma, _, mask = inputs(1)
    network = PixelEditUNet()
    text = torch.randn(1, 32, network.config["text_dim"])
    assert torch.equal(network(latents, source, sigma, text, mask), source)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (28, 16)])
def test_the_network_takes_any_multiple_of_16_pixels(network: PixelEditUNet, size: tuple[int, int]):
    _, _, sigma, text, mask = inputs(1)
    latents = torch.randn(1, 48, *size)
    assert network(latents, latents, sigma, text, mask).shape == latents.shape


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours(network: PixelEditUNet):
    rows = inputs(3)
    together = network(*rows)
    for i in range(3):
        alone = network(*(t[i : i + 1] for t in rows))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)  # convolutions may add up in another order


@torch.inference_mode()
def test_masked_tokens_do_not_matter(network: PixelEditUNet):
    latents, source, sigma, text, mask = inputs(1)
    other = text.clone()
    other[:, 5:] = 100.0
    assert torch.equal(network(latents, source, sigma, text, mask), network(latents, source, sigma, other, mask.bool()))


def test_a_partial_strength_has_one_target_along_its_path():
    """Following the target from strength 0.6 keeps asking for 0.6 of the edit, and ends there."""
    source, edited, noise = (torch.randn(1, 48, 4, 4) for _ in range(3))
    strength, sigmas = 0.6, torch.tensor([0.6, 0.4, 0.15, 0.0])
    latents = add_noise(source, noise, sigmas[:1])
    for t, t_next in pairwise(sigmas):
        mix = (strength - t) / (1 - t)
        target = partial_edit_target(source, edited, t[None], mix[None])
        assert torch.allclose(target, torch.lerp(source, edited, strength), atol=1e-5)
        latents = torch.lerp(target, latents, t_next / t)
    assert torch.allclose(latents, torch.lerp(source, edited, strength), atol=1e-5)


def test_the_schedule_falls_from_noise_to_the_picture():
    sigmas = schedule(8, shift=1.0)
    assert sigmas.shape == (9,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_the_checkpoint_is_small_and_safe():
    files = [f for f in CHECKPOINT.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < MAX_CHECKPOINT_BYTES
    assert {f.suffix for f in files} <= {".json", ".safetensors"}


@pytest.mark.parametrize(
    "prompt", ["", "zażółć 日本語 🎉 \u0000\ud7ff", "make it " + "very " * 8000, "\u202e" * 32_000]
)
def test_any_text_becomes_tokens(prompt: str):
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT / "tokenizer")
    length = json.loads((CHECKPOINT / "denoiser" / "config.json").read_text())["text_length"]
    tokens = tokenizer([prompt], padding="max_length", truncation=True, max_length=length)
    assert len(tokens["input_ids"][0]) == length
    assert sum(tokens["attention_mask"][0]) >= 1
    assert tokenizer.pad_token == PAD


@pytest.mark.parametrize(
    ("prompt", "edit"),
    [("make it sepia", "sepia"), ("invert the colours", "invert"), ("turn day into night", "night"), ("", IDENTITY)],
)
def test_the_checkpoint_obeys(prompt: str, edit: str):
    photograph = Image.open(ROOT / "examples" / "coffee.png").convert("RGB").resize((192, 128))
    output = CheckpointEditor(CHECKPOINT, steps=4).edit(photograph, prompt, seed=0)
    assert nearest_edit(output, all_targets(photograph)) == edit
