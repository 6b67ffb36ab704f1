"""What the benchmarks stand on: checkpoints that are made up, and tables of timings that are measured."""

import subprocess
import sys
from pathlib import Path

from benchmarks.checkpoints import TEXT_TOKENS, flux_kontext, flux_kontext_configurations
from build_engines.inputs import lengths_of, random_inputs
from build_engines.parts import loaded
from serve.backends.timing_table import load_table
from serve.settings import ModelSettings

EMBEDDED_COMPONENTS = {"text_encoder", "denoiser"}


def kontext(folder: Path) -> ModelSettings:
    return ModelSettings(id="m", family="flux_kontext", weights=str(folder))


def test_the_configurations_alone_hold_no_weights_and_little_else(tmp_path: Path):
    files = [path for path in flux_kontext_configurations(tmp_path).rglob("*") if path.is_file()]

    assert {path.suffix for path in files} <= {".json", ".txt", ".model"}
    assert sum(path.stat().st_size for path in files) < 200_000


def test_every_component_of_a_model_runs_on_random_inputs_of_what_it_declares(tmp_path: Path):
    made = loaded(kontext(flux_kontext(tmp_path)))
    assert list(made.components) == ["text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "denoiser"]

    for component in made.components.values():
        lengths = lengths_of(component.spec, made.family.lengths((32, 64), [(64, 64)]), batch=2)
        outputs = component(random_inputs(component.spec, lengths))
        assert all(output.shape[0] == 2 and output.isfinite().all() for output in outputs.values())


def test_a_family_tells_how_long_the_axes_of_a_picture_are(tmp_path: Path):
    family = loaded(kontext(flux_kontext(tmp_path))).family
    assert family.lengths((512, 256), [(1024, 1024)]) == {
        "width": 512,
        "height": 256,
        "latent_width": 64,
        "latent_height": 32,
        "tokens": 512,
        "reference_tokens": 512 + 4096,
        "positions": TEXT_TOKENS + 512 + 512 + 4096,
    }


def test_the_command_writes_a_table_that_the_simulated_backend_reads(tmp_path: Path, embedded_engines: None):
    command = [sys.executable, "-m", "benchmarks.measure_timings", "--batches", "1", "2", "--runs", "1"]
    sizes = ["--size", "64x64"]
    table = tmp_path / "measured.yaml"

    table.write_text(subprocess.run([*command, *sizes], capture_output=True, check=True, text=True).stdout)

    measured = load_table(str(table))
    assert measured.components.keys() == EMBEDDED_COMPONENTS
    assert all(list(timing.seconds) == [1, 2] for points in measured.components.values() for timing in points)
    assert "retouch-tiny on openvino " in measured.source
    assert "64x64" in measured.source


def test_the_table_of_two_cores_is_of_the_embedded_model():
    measured = load_table("cpu-2-cores")

    assert measured.components.keys() == EMBEDDED_COMPONENTS
    assert 0 < measured.seconds("denoiser", 1, tokens=128 * 128) < measured.seconds("denoiser", 8, tokens=128 * 128)
