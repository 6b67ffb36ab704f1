"""`retouch build-engines`, run whole."""

import re
from pathlib import Path

import pytest
import yaml

from serve.backends.manifest import Engine
from tests.contract.engines import small_model
from tests.unit.test_cli import Terminal


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Of a small model with random weights."""
    model = small_model("pixel_edit", tmp_path, backend="onnxruntime", aliases=["small"])
    path = tmp_path / "retouch.yaml"
    path.write_text(yaml.safe_dump({"models": [model.model_dump(mode="json", exclude_defaults=True)]}))
    capsys.readouterr()
    return path


def test_it_builds_tells_what_it_does_and_shows_a_table(run: Terminal, config: Path, tmp_path: Path):
    ended = run("build-engines", "--config", config, "--model", "small", "--components", "text_encoder")
    assert (ended.code, ended.err.splitlines()) == (
        0,
        ["text_encoder: loading", "text_encoder: exporting", "text_encoder: comparing with torch"],
    )
    assert re.search(r"text_encoder +built +onnxruntime +float32 +\d\.\d +\d\S* +\d+ +\d+", ended.out)
    assert Engine(tmp_path / "model_repository", "small-pixel_edit", "text_encoder").manifest().backend == "onnxruntime"
    again = run("build-engines", "--config", config, "--components", "text_encoder")
    assert (again.code, again.err) == (0, "")
    assert "up to date" in again.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "other"], "model 'other' is none of small-pixel_edit"),
        (["--components", "vae"], "component 'vae' is none of text_encoder, denoiser"),
        (["--backend", "onnx"], "--backend onnx is none of tensorrt, onnxruntime, openvino"),
        (["--precision", "int8"], "--precision int8 is none of fp32, float32, fp16, float16, bf16, bfloat16"),
        (["--sizes", "1024"], "--sizes 1024 is no size, such as 1024x1024"),
        (["--batch", "0"], "--batch 0 is no number from 1 to 64"),
        (["--references", "-1"], "--references -1 is no number from 0 to 64"),
        (["--precision", "bf16"], "ONNX Runtime has no bfloat16 kernels for CPUs"),
        (["--backend", "tensorrt"], "there is no GPU here to build for"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(run: Terminal, config: Path, options: list[str], said: str):
    ended = run("build-engines", "--config", config, *options)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_folder_without_weights_is_one_sentence(run: Terminal, config: Path, tmp_path: Path):
    text = config.read_text().replace(str(tmp_path / "pixel_edit"), str(tmp_path / "nothing"))
    config.write_text(text)
    ended = run("build-engines", "--config", config)
    assert ended.code == 2
    assert "is no model folder: it has no model_index.json" in ended.err
