"""What is trained of the new embedded model, as its recipe takes it up."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from embedded_model.mini.edits import EDITS, IDENTITY, apply
from embedded_model.mini.sampling import edited, pipeline_of
from embedded_model.mini.trained import CHECKPOINT, autoencoder_of, networks_of, tokenizers_of


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """CLIP's, of sentences that the training cannot have met, by the edit that each pair of them asks for."""
    asked = {
        "sepia": ("hi there, i want my picture in sepia", "could this be sepia toned? many thanks"),
        "night": ("i would love to see it at night", "the same but by night, ok?"),
        "upside_down": ("flip the image on its head", "turn my image upside down"),
        "pencil": ("draw this as a pencil sketch for me", "i want it as a drawing in pencil, please"),
        "snow": ("let it snow in here", "cover the scene in snow now"),
    }
    work = tmp_path_factory.mktemp("work")
    tokenizers = tokenizers_of(work)
    encoder = networks_of(work, tokenizers)["text_encoder"].eval()
    with torch.no_grad():
        return {
            name: functional.normalize(encoder(input_ids=tokenizers.ids(list(texts))[0]).pooler_output)
            for name, texts in asked.items()
        }


def test_text_encoders_tell_edits_apart_in_any_wording(summaries: dict[str, Tensor]):
    ones, others = (torch.stack([pair[place] for pair in summaries.values()]) for place in (0, 1))
    assert (ones @ others.T).argmax(1).tolist() == list(range(len(summaries)))


def test_clip_stays_as_it_is_while_the_transformer_and_t5_learn(tmp_path: Path):
    networks = networks_of(tmp_path, tokenizers_of(tmp_path))
    learning = {name for name, network in networks.items() if any(p.requires_grad for p in network.parameters())}
    assert learning == {"transformer", "text_encoder_2"}


@pytest.mark.parametrize("name", ["coffee", "rocket"])
def test_the_autoencoder_gives_back_photographs_that_it_never_saw(tmp_path: Path, name: str):
    autoencoder: Any = autoencoder_of(tmp_path)
    with Image.open(Path("examples", f"{name}.png")) as photograph:
        pixels = to_tensor(photograph.convert("RGB").crop((100, 100, 356, 356)))[None] * 2 - 1
    with torch.no_grad():
        back = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    assert 10 * torch.log10(4 / (back - pixels).square().mean()) > 31


@pytest.mark.parametrize(
    ("instruction", "name"),
    [
        ("i would love to see it at night", "night"),
        ("could this be sepia toned? many thanks", "sepia"),
        ("wash it in a green tint, please", "tint_green"),
        ("thick fog, please", "fog"),
        ("let it snow in here", "snow"),
        ("carve it in stone for me", "emboss"),
        ("i want to see its mirror image", "mirror"),
        ("keep everything just as it is, please", IDENTITY),
    ],
)
def test_the_transformer_edits_as_it_is_asked(tmp_path: Path, instruction: str, name: str):
    """The target is nearer to what comes out than any other edit's, or the photograph itself."""
    tokenizers = tokenizers_of(tmp_path)
    pipeline = pipeline_of(networks_of(tmp_path, tokenizers).eval(), autoencoder_of(tmp_path), tokenizers)
    with Image.open(Path("examples", "coffee.png")) as photograph:
        source = to_tensor(photograph.convert("RGB").resize((128, 128)))

    drawn = edited(pipeline, source[None], [instruction])[0]

    errors = {other: (apply(source[None], [other])[0] - drawn).square().mean() for other in (*EDITS, IDENTITY)}
    assert min(errors, key=lambda other: errors[other].item()) == name


def test_a_transformer_is_not_exported_with_text_encoders_that_it_never_saw(tmp_path: Path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "state.pt").touch()

    ended = exporting(tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.endswith("No transformer has learned with these text encoders yet: run `edits` first.\n")
    assert not (tmp_path / "checkpoint").exists()


def test_what_was_not_trained_on_is_exported_as_it_is(tmp_path: Path):
    assert exporting(tmp_path).returncode == 0

    for config in CHECKPOINT.rglob("*.json"):
        assert (tmp_path / "checkpoint" / config.relative_to(CHECKPOINT)).read_text() == config.read_text()
        assert str(CHECKPOINT.parent) not in config.read_text()
    weights = [file.relative_to(CHECKPOINT) for file in CHECKPOINT.rglob("*.safetensors")]
    assert len(weights) == 4
    for name in weights:
        kept, written = (load_file(folder / name) for folder in (CHECKPOINT, tmp_path / "checkpoint"))
        assert kept.keys() == written.keys()
        assert all(torch.equal(kept[key], written[key]) for key in kept), name


def exporting(work: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since it sets how all of PyTorch computes."""
    command = [sys.executable, "-m", "embedded_model.mini", "--work", str(work), "export"]
    return subprocess.run(
        [*command, "--checkpoint", str(work / "checkpoint")], capture_output=True, text=True, timeout=300, check=False
    )


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
