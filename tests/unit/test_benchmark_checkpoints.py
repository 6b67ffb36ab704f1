"""What the benchmarks stand on: checkpoints that are made up, and tables of timings that are measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.checkpoints import TEXT_TOKENS, flux_kontext, flux_kontext_configurations
from benchmarks.measure_timings import Recorder, lengths_of, random_inputs
from serve.backends.timing_table import load_table
from serve.backends.torch import TorchBackend
from serve.families import load_family
from serve.settings import ModelSettings

EMBEDDED_COMPONENTS = {"text_encoder", "denoiser"}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(TorchBackend("cpu", "float32", threads=torch.get_num_threads()))


def kontext(folder: Path) -> ModelSettings:
    return ModelSettings(id="m", family="flux_kontext", weights=str(folder))


def test_the_configurations_alone_hold_no_weights_and_little_else(tmp_path: Path):
    files = [path for path in flux_kontext_configurations(tmp_path).rglob("*") if path.is_file()]

    assert {path.suffix for path in files} <= {".json", ".txt", ".model"}
    assert sum(path.stat().st_size for path in files) < 200_000


def test_every_component_of_a_model_runs_on_random_inputs_of_what_it_declares(recorder: Recorder, tmp_path: Path):
    load_family(kontext(flux_kontext(tmp_path)), recorder)
    chosen = {"batch": 2, "tokens": 16, "reference_tokens": 32, "height": 64, "width": 32}
    chosen |= {"latent_height": 8, "latent_width": 4}

    for component in recorder.components:
        lengths = lengths_of(component.spec.axes, chosen)
        outputs = component(random_inputs(component.spec, lengths, recorder.device))
        assert all(output.shape[0] == 2 and output.isfinite().all() for output in outputs.values())

    names = [component.spec.name for component in recorder.components]
    assert names == ["text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "denoiser"]


def test_lengths_that_are_not_chosen_are_the_optimum_and_others_follow(recorder: Recorder, tmp_path: Path):
    load_family(kontext(flux_kontext(tmp_path)), recorder)
    *_, denoiser = recorder.components

    lengths = lengths_of(denoiser.spec.axes, {"tokens": 1024})

    assert lengths == {"batch": 1, "tokens": 1024, "reference_tokens": 4096, "positions": TEXT_TOKENS + 1024 + 4096}


def test_the_command_writes_a_table_that_the_simulated_backend_reads(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.measure_timings", "--batches", "1", "2", "--runs", "1"]
    sizes = ["--axis", "height=16", "--axis", "width=16"]
    table = tmp_path / "measured.yaml"

    table.write_text(subprocess.run([*command, *sizes], capture_output=True, check=True, text=True).stdout)

    measured = load_table(str(table))
    assert measured.components.keys() == EMBEDDED_COMPONENTS
    assert all(list(timing.seconds) == [1, 2] for points in measured.components.values() for timing in points)
    assert "retouch-tiny on torch, " in measured.source
    assert "height 16, width 16" in measured.source


def test_the_table_of_two_cores_is_of_the_embedded_model():
    measured = load_table("cpu-2-cores")

    assert measured.components.keys() == EMBEDDED_COMPONENTS
    assert 0 < measured.seconds("denoiser", 1, tokens=128 * 128) < measured.seconds("denoiser", 8, tokens=128 * 128)
