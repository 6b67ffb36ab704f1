"""One frozen configuration: which source wins, and that a start that cannot succeed says which key is at fault."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve.errors import ConfigurationError
from serve.settings import EMBEDDED_CHECKPOINT, ModelSettings, Settings, load

FIRST = {"id": "first", "family": "pixel_edit", "weights": "w", "aliases": ["one", "uno"]}
SECOND = {"id": "second", "family": "pixel_edit", "weights": "w"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("RETOUCH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "retouch.yaml"


def written(file: Path, text: str | dict[str, Any]) -> Path:
    file.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
    return file


def refused(file: Path | None = None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(file, overrides)
    return str(caught.value)


def test_without_a_file_the_embedded_model_is_served_on_this_machine_only():
    settings = load()
    assert [model.id for model in settings.models] == ["retouch-tiny"]
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.limits.image_bytes == 4 * 2**20
    assert settings.storage.lifetime_s == 3600


def test_a_bucket_is_configured_by_file_and_variables_together(file: Path, monkeypatch: pytest.MonkeyPatch):
    written(file, {"storage": {"url": "s3://results/a", "options": {"region": "eu-west-1"}, "lifetime_s": 604800}})
    monkeypatch.setenv("RETOUCH_STORAGE__OPTIONS", '{"virtual_hosted_style_request": true}')
    storage = load(file).storage
    assert (storage.url, storage.lifetime_s) == ("s3://results/a", 604800)
    assert storage.options == {"region": "eu-west-1", "virtual_hosted_style_request": True}


def test_a_variable_wins_over_an_override_that_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch):
    written(file, {"server": {"port": 1, "codec_replicas": 1, "codec_threads": 1, "host": "file"}})
    monkeypatch.setenv("RETOUCH_SERVER__PORT", "3")
    server = load(file, {"server": {"port": 2, "codec_replicas": 2}}).server
    assert (server.port, server.codec_replicas, server.codec_threads, server.host) == (3, 2, 1, "file")


def test_a_variable_may_hold_a_whole_section_as_json(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RETOUCH_MODELS", json.dumps([SECOND]))
    monkeypatch.setenv("RETOUCH_SERVER", '{"port": 3}')
    settings = load(written(file, {"models": [FIRST], "server": {"port": 1, "host": "file"}}))
    assert [model.id for model in settings.models] == ["second"]
    assert (settings.server.port, settings.server.host) == (3, "file")


def test_variables_are_read_in_either_case(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("retouch_server__port", "3")
    assert load().server.port == 3


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "server:\n", "server:\n  # port: 1\nstorage: {}\n", "default_model:\n"]
)
def test_a_file_or_section_with_nothing_in_it_leaves_the_defaults(file: Path, text: str):
    assert load(written(file, text)) == load()


def test_a_section_with_nothing_in_it_can_be_overridden(file: Path):
    assert load(written(file, "server:\n"), {"server": {"port": 3}}).server.port == 3


def test_a_null_is_the_default_of_its_key(file: Path):
    model = {**FIRST, "threads": None, "device": None, "strength": None, "aliases": None}
    settings = load(written(file, {"models": [model], "server": {"port": None}, "limits": None}))
    assert settings.server == load().server
    assert settings.limits == load().limits
    assert settings.models[0] == ModelSettings.model_validate({**FIRST, "aliases": ()})


def test_a_null_in_a_variable_or_an_override_is_the_default_and_not_what_the_file_says(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    written(file, {"server": {"port": 1, "host": "file"}, "storage": {"lifetime_s": 5}})
    monkeypatch.setenv("RETOUCH_SERVER", '{"port": null}')
    settings = load(file, {"storage": None})
    assert (settings.server.port, settings.server.host) == (8000, "file")
    assert settings.storage == load().storage


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("serverr:", "unknown configuration key serverr in FILE"),
        ("server: {prot: null}", "unknown configuration key server.prot in FILE"),
        ("models: [{id: a, family: f, weights: w, wieghts: }]", "unknown configuration key models.0.wieghts in FILE"),
        ("models: [{id: a, family: f, weights: }]", "configuration key models.0.weights is missing in FILE"),
        ("models: [null]", "configuration key models.0 in FILE: "),
        ("models:", "configuration key models in FILE: the list is empty; add a model, or leave the key out"),
        ("models: []", "configuration key models in FILE: the list is empty; add a model, or leave the key out"),
        ("_env_prefix: OTHER_", "unknown configuration key _env_prefix in FILE"),
        ("_cli_parse_args: ", "unknown configuration key _cli_parse_args in FILE"),
        ("~: 1", "unknown configuration key None in FILE"),
        ("models: [{id: a, family: f, weights: w, threads: -1}]", "configuration key models.0.threads in FILE: "),
        (
            "models: [{id: a, family: f, weights: w, backend: onnxruntime, compile: true}]",
            "configuration key models.0 in FILE: compile is of the backend torch alone; backend is onnxruntime",
        ),
        (
            "models: [{id: a, family: f, weights: w, device: 'cuda:1'}]",
            "configuration key models.0 in FILE: device cuda:1 needs num_gpus above 0; ",
        ),
        (
            "models: [{id: a, family: f, weights: w, components: {denoiser: {device: cuda}}}]",
            "configuration key models.0 in FILE: device cuda needs num_gpus above 0; ",
        ),
        ("storage: {max_bytes: 16777215}", "configuration key storage.max_bytes in FILE: "),
        ("servr: {}", "unknown configuration key servr in FILE"),
        ("server: {prot: 1}", "unknown configuration key server.prot in FILE"),
        ("7: x", "unknown configuration key 7 in FILE"),
        ("models: [{id: a, family: f, weights: w, wieghts: w}]", "unknown configuration key models.0.wieghts in FILE"),
        ("models: [{id: a, weights: w}]", "configuration key models.0.family is missing in FILE"),
        ("server: {port: 65536}", "configuration key server.port in FILE: "),
        ("server: {port: eighty}", "(found 'eighty')"),
        ("server: 3", "configuration key server in FILE: "),
        ("models: [{id: a b, family: f, weights: w}]", "configuration key models.0.id in FILE: "),
        ("storage: {lifetime_s: .inf}", "configuration key storage.lifetime_s in FILE: "),
        ("storage: {url: 'ftp://a/b'}", "configuration key storage.url in FILE: 'ftp://a/b' is none of s3://"),
        ("storage: {url: 's3://'}", "'s3://' is none of s3://bucket/prefix, "),
        ("storage: {url: 's3://bucket/a?b=c'}", "'s3://bucket/a?b=c' is none of s3://bucket/prefix, "),
        (
            "storage: {url: 's3://b', lifetime_s: 604801}",
            "lifetime_s is 604801; signed links of a bucket work for at most",
        ),
        ("storage: {url: 's3://b', folder: /tmp/a}", "in FILE: folder is of the embedded store, and url names s3://b"),
        ("storage: {options: {region: x}}", "in FILE: options is of a bucket, and url names none"),
        ("storage: {url: 's3://b', option: {}}", "unknown configuration key storage.option in FILE"),
        ("storage: {url: 's3://b', options: {region: 1}}", "configuration key storage.options.region"),
        ("storage: {url: 'gs://b', public_endpoint: 'https://a'}", "public_endpoint is for s3:// alone"),
        ("storage: {url: 's3://b', public_endpoint: a}", "an endpoint is https://host"),
        ("storage: {lifetime_s: 0}", "configuration key storage.lifetime_s in FILE: "),
        ("server: {port: 1, port: 2}", "the key port occurs twice"),
        ("server: {port: 1}\nserver: {port: 1}", "the key server occurs twice"),
        ("provenance: all", "configuration key provenance in FILE: "),
        ("default_model: other", "default_model 'other' is none of retouch-tiny"),
        ("[server]", "FILE must be a mapping of keys, not list"),
        ("server: [", "FILE is no good YAML: "),
        ("server: !!python/object/apply:os.getcwd []", "FILE is no good YAML: "),
    ],
)
def test_a_wrong_file_stops_the_start_with_one_sentence_that_names_the_key(file: Path, text: str, told: str):
    message = refused(written(file, text))
    assert told.replace("FILE", str(file)) in message
    assert "\n" not in message
    assert "Value error" not in message


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("RETOUCH_SERVR__PORT", "1", "the variable RETOUCH_SERVR__PORT is unknown; known are RETOUCH_DEFAULT_MODEL, "),
        ("RETOUCH_SERVER_PORT", "1", "the variable RETOUCH_SERVER_PORT is unknown"),
        ("retouch_servr__port", "1", "the variable retouch_servr__port is unknown"),
        ("RETOUCH_SERVER__PROT", "1", "unknown configuration key server.prot in the variable RETOUCH_SERVER__PROT"),
        ("RETOUCH_SERVER", '{"prot": 1}', "unknown configuration key server.prot in the variable RETOUCH_SERVER"),
        ("RETOUCH_SERVER__PORT", "x", "configuration key server.port in the variable RETOUCH_SERVER__PORT: "),
        ("RETOUCH_SERVER__PORT", "", "configuration key server.port in the variable RETOUCH_SERVER__PORT: "),
        ("RETOUCH_MODELS", "null", "the variable RETOUCH_MODELS is null; leave it out, or set it to JSON"),
        ("RETOUCH_SERVER", "null", "the variable RETOUCH_SERVER is null; leave it out, or set it to JSON"),
        ("RETOUCH_MODELS", "[]", "configuration key models in the variable RETOUCH_MODELS: the list is empty; "),
        ("RETOUCH_SERVER", '{"prot": null}', "unknown configuration key server.prot in the variable RETOUCH_SERVER"),
        (
            "RETOUCH_SERVER__PORT__X",
            "1",
            "the variable RETOUCH_SERVER__PORT__X is unknown; after RETOUCH_SERVER__ comes one key",
        ),
        (
            "RETOUCH_MODELS__0__DEVICE",
            "cuda",
            "variable RETOUCH_MODELS__0__DEVICE names a part of models; RETOUCH_MODELS takes the whole list as JSON",
        ),
        (
            "RETOUCH_DEFAULT_MODEL__ID",
            "one",
            "RETOUCH_DEFAULT_MODEL__ID names a part of default_model; RETOUCH_DEFAULT_MODEL takes the whole value",
        ),
        ("RETOUCH_MODELS", "tiny", 'a RETOUCH_* variable is not JSON: error parsing value for field "models"'),
    ],
)
def test_a_wrong_variable_stops_the_start_and_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
):
    monkeypatch.setenv(name, value)
    assert told in refused(written(file, {"server": {"host": "file"}}))


SERVICES = {
    "_SERVICE_HOST": "10.96.0.7",
    "_SERVICE_PORT": "8000",
    "_SERVICE_PORT_HTTP": "8000",
    "_SERVICE_PORT_HTTP_METRICS": "8000",
    "_PORT": "tcp://10.96.0.7:8000",
    "_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "_PORT_8000_TCP_PROTO": "tcp",
    "_PORT_8000_TCP_PORT": "8000",
    "_PORT_8000_TCP_ADDR": "10.96.0.7",
    "_PORT_53_UDP_ADDR": "10.96.0.7",
}


@pytest.mark.parametrize("service", ["RETOUCH", "RETOUCH_SERVE_SVC", "RETOUCH_SERVER", "RETOUCH_MODELS", "RETOUCH_2_0"])
def test_variables_that_kubernetes_sets_for_services_are_passed_over(monkeypatch: pytest.MonkeyPatch, service: str):
    expected = load()
    for suffix, value in SERVICES.items():
        monkeypatch.setenv(f"{service}{suffix}", value)
    assert load() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETOUCH_PORT", "8000"),
        ("RETOUCH_SERVER_PORT", "8000"),
        ("RETOUCH_SERVER_HOST", "10.96.0.7"),
        ("RETOUCH_HOST", "tcp://10.96.0.7:8000"),
        ("retouch_service_host", "10.96.0.7"),
        ("RETOUCH_SERVICE_HOSTS", "10.96.0.7"),
        ("RETOUCH_SERVICE_HOST_HTTP", "10.96.0.7"),
        ("RETOUCH_PORT_HTTP_TCP", "tcp://10.96.0.7:8000"),
        ("RETOUCH_PORT_8000_TCP_HOST", "10.96.0.7"),
        ("RETOUCH_PORT_8000", "8000"),
        ("RETOUCH_SERVER__PORT_8000_TCP", "8000"),
        ("RETOUCH__SERVICE_HOST", "10.96.0.7"),
        ("RETOUCH_SERVICE_HOST\n", "10.96.0.7"),
    ],
)
def test_variables_that_only_look_like_those_of_services_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    assert name in refused()


def test_a_model_on_a_gpu_asks_ray_for_one_or_a_part_of_one(file: Path):
    model = {**FIRST, "device": "cuda", "num_gpus": 0.5}
    assert load(written(file, {"models": [model]})).models[0].num_gpus == 0.5


def test_the_threads_are_left_to_the_machine_that_a_replica_runs_on(file: Path):
    assert load().models[0].threads == 0
    assert load(written(file, {"models": [{**FIRST, "threads": 3}]})).models[0].threads == 3


def test_a_plain_installation_holds_the_embedded_checkpoint(tmp_path: Path):
    build = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    run([sys.executable, "-c", "import setuptools; setuptools.setup()", *build], cwd=ROOT)
    told = "import serve.settings as s, sys; print(s.EMBEDDED_CHECKPOINT, 'embedded_model' in sys.modules)"
    found, imported = run([sys.executable, "-c", told], cwd=tmp_path / "lib").split()
    assert Path(found) == tmp_path / "lib" / "embedded_model" / "checkpoint"
    assert imported == "False"
    assert files_below(Path(found)) == files_below(EMBEDDED_CHECKPOINT) >= {"model_index.json"}


def run(command: list[str], cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_wrong_section_is_told_also_where_overrides_change_it(file: Path):
    assert "configuration key server in" in refused(written(file, "server: 3"), {"server": {"port": 3}})


def test_an_unknown_override_stops_the_start():
    assert refused(overrides={"server": {"prot": 3}}) == "unknown configuration key server.prot"


def test_a_secret_is_not_shown_in_the_message(file: Path):
    assert "1234" not in refused(written(file, "storage: {secret: 1234}"))
    assert "1234" not in refused(written(file, "storage: {url: 's3://b', options: {secret_access_key: 1234}}"))
    assert "1234" not in refused(written(file, "storage: {url: 's3://b', options: [1234]}"))
    assert "1234" not in refused(written(file, "storage: {url: 's3://key:1234@bucket/a'}"))


def test_a_file_that_is_not_there_or_not_text_stops_the_start(tmp_path: Path, file: Path):
    assert refused(tmp_path / "none.yaml") == (
        f"configuration {tmp_path / 'none.yaml'} cannot be read: No such file or directory"
    )
    file.write_bytes(b"\xff")
    assert "no good YAML" in refused(file)


@pytest.mark.parametrize(
    ("second", "doubled"),
    [
        ({**SECOND, "id": "first"}, "first"),
        ({**SECOND, "aliases": ["uno"]}, "uno"),
        ({**SECOND, "aliases": ["first"]}, "first"),
        ({**SECOND, "id": "one"}, "one"),
    ],
)
def test_a_name_for_two_models_stops_the_start(file: Path, second: dict[str, Any], doubled: str):
    assert f"'{doubled}' names two models" in refused(written(file, {"models": [FIRST, second]}))


def test_a_model_is_found_by_id_and_by_alias_and_without_a_name_the_default_is(file: Path):
    settings = load(written(file, {"models": [FIRST, SECOND]}))
    assert [getattr(settings.model(name), "id", None) for name in ("first", "uno", "second", "", "other")] == [
        "first",
        "first",
        "second",
        "first",
        None,
    ]
    chosen = load(written(file, {"models": [FIRST, SECOND], "default_model": "second"})).model("")
    assert chosen is not None
    assert chosen.id == "second"


def test_settings_cannot_be_changed_after_the_start():
    settings = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.server.port = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="frozen"):
        settings.default_model = "x"  # pyright: ignore[reportAttributeAccessIssue]


def test_settings_reach_other_processes_as_they_are(file: Path, monkeypatch: pytest.MonkeyPatch):
    settings = load(written(file, {"models": [FIRST], "server": {"port": 3}}))
    monkeypatch.setenv("RETOUCH_SERVER__PORT", "4")
    assert pickled(settings) == settings


def pickled(settings: Settings) -> Settings:
    return pickle.loads(pickle.dumps(settings))


def test_the_variable_config_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "retouch.yaml"
    file.write_text("server: {port: 8080}")
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    assert load().server.port == 8080
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 9090}")
    assert load(other).server.port == 9090
