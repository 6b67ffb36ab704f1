"""The application as Ray's own commands see it: `serve build`, and a config file whose args are our configuration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from serve.deployments import app
from serve.errors import ConfigurationError
from serve.settings import EMBEDDED_CHECKPOINT, Settings

MODELS = """
models:
  - {id: acme/Tiny-1, family: pixel_edit, weights: WEIGHTS, replicas: 2, num_gpus: 0.5, num_cpus: 3}
server: {codec_replicas: 4}
auth: {allow_anonymous: true}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "retouch.yaml"
    file.write_text(MODELS.replace("WEIGHTS", str(EMBEDDED_CHECKPOINT)))
    return file


def test_serve_build_writes_a_config_that_ray_accepts(config: Path, tmp_path: Path):
    built = tmp_path / "serve.yaml"
    command = [str(Path(sys.executable).parent / "serve"), "build", "serve.deployments.app:configured"]
    environment = {**os.environ, "RETOUCH_CONFIG": str(config)}
    subprocess.run([*command, "-o", str(built)], env=environment, check=True, capture_output=True, timeout=120)

    schema = ServeDeploySchema.model_validate(yaml.safe_load(built.read_text()))
    deployments = {one.name: one for one in schema.applications[0].deployments}
    editor = deployments["editor-acme-tiny-1"]
    assert deployments.keys() == {"ingress", "codec", "runs", "editor-acme-tiny-1"}
    assert editor.num_replicas == 2
    assert editor.ray_actor_options.num_gpus == 0.5
    assert editor.ray_actor_options.num_cpus == 3
    assert deployments["codec"].num_replicas == 4


def test_the_builder_takes_a_file_or_the_keys_themselves(config: Path):
    by_file = _settings_of(app.build({"config": str(config)}))
    by_keys = _settings_of(app.build(yaml.safe_load(config.read_text())))
    assert by_file == by_keys
    assert by_file.models[0].num_cpus == 3


def test_the_builder_refuses_a_key_that_ray_would_drop_in_silence():
    with pytest.raises(ConfigurationError, match=r"unknown configuration key server\.prot"):
        app.build({"server": {"prot": 8080}})


def test_a_family_that_is_not_there_is_named():
    families = "flux_kontext, flux_kontext_mini, pixel_edit"
    with pytest.raises(ConfigurationError, match=f"family 'fluxx' is none of {families}"):
        app.build({"models": [{"id": "a", "family": "fluxx", "weights": "w"}], "auth": {"allow_anonymous": True}})


def test_an_open_server_on_an_address_that_is_not_known_is_refused():
    with pytest.raises(ConfigurationError, match=r"set auth\.keys_file .*, or auth\.allow_anonymous: true"):
        app.build({})


def _settings_of(application: Application) -> Settings:
    """What the ingress was bound with; Ray offers no public way to ask."""
    return application._bound_deployment.init_args[0]  # pyright: ignore[reportPrivateUsage]
