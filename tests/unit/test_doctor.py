"""`retouch doctor`: each check on a machine, a folder or a file that is well, and on one with a real fault."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from serve.auth import create_key
from serve.cli.doctor import access, executors, gpus, machine, models, network, packages, stores, triton
from serve.cli.doctor.examine import examine
from serve.cli.doctor.findings import Finding, Verdict, guarded, ok
from serve.settings import EMBEDDED_CHECKPOINT, ModelSettings, Settings, embedded_model
from tests import checkpoints
from tests.http.conftest import free_port
from tests.unit.peer import Answer, listening, refusal
from tests.unit.test_cli import Terminal

OK, WARNING, WRONG = Verdict.OK, Verdict.WARNING, Verdict.WRONG
TINY = {"id": "tiny", "family": "pixel_edit", "weights": str(EMBEDDED_CHECKPOINT)}
SECRET = "6hVnKq-do-not-show"
Check = Callable[[Settings], Iterable[Finding]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoints.pixel_edit(tmp_path / "weights")


def settings(**sections: Any) -> Settings:
    """One model on the CPU, and a port that is free, unless something else is said."""
    asked: dict[str, Any] = {"models": (TINY,), "server": {"port": free_port()}, **sections}
    return Settings(**asked)


def verdicts(check: Check, asked: Settings) -> list[tuple[str, Verdict]]:
    return [(one.check, one.verdict) for one in check(asked)]


def only(check: Check, asked: Settings) -> Finding:
    (finding,) = check(asked)
    return finding


class TestTheCommand:
    def test_a_typo_is_told_as_serve_tells_it_and_the_packages_are_checked_all_the_same(
        self, run: Terminal, tmp_path: Path
    ):
        config = tmp_path / "retouch.yaml"
        config.write_text("server:\n  prot: 8000\n")
        ended = run("doctor", "--config", config)
        told = f"wrong    configuration: unknown configuration key server.prot in {config}; correct it"
        assert ended.code == 1
        assert ended.out.splitlines()[-1].startswith(told)
        assert "ok       package ray" in ended.out
        assert ended.err.endswith("1 of 7 findings is wrong\n")

    def test_json_holds_the_same_and_no_secret(
        self, run: Terminal, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ):
        config = tmp_path / "retouch.yaml"
        model = {**TINY, "weights": str(checkpoint)}
        storage = {"folder": str(tmp_path / "files"), "secret": SECRET}
        config.write_text(json.dumps({"models": [model], "storage": storage}))
        monkeypatch.setenv("RETOUCH_SERVER__PORT", str(free_port()))
        ended = run("doctor", "--config", config, "--json")
        told = json.loads(ended.out)
        source = next(one for one in told["findings"] if one["check"] == "configuration")
        assert source == {
            "check": "configuration",
            "verdict": "ok",
            "found": f"from {config}; variables RETOUCH_SERVER__PORT",
            "advice": "",
        }
        assert ended.code == (1 if told["verdict"] == "wrong" else 0)
        assert {one["verdict"] for one in told["findings"]} <= {"ok", "warning"}, told
        assert SECRET not in ended.out + ended.err

    def test_neither_ray_is_started_nor_anything_but_the_store_written(self, tmp_path: Path, checkpoint: Path):
        config = tmp_path / "retouch.yaml"
        folders = {"storage": {"folder": str(tmp_path / "files")}, "server": {"cache_folder": str(tmp_path / "cache")}}
        model = {**TINY, "weights": str(checkpoint), "step_log": str(tmp_path / "steps" / "log")}
        config.write_text(json.dumps({**folders, "models": [model]}))
        before = set(tmp_path.rglob("*"))
        command = "import sys, serve.cli\ntry: serve.cli.main(sys.argv[1:])\nfinally: print('ray' in sys.modules)"
        environment = {**os.environ, "RETOUCH_SERVER__PORT": str(free_port())}
        ended = subprocess.run(
            [sys.executable, "-c", command, "doctor", "--config", str(config)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines()[-1] == "False"
        assert set(tmp_path.rglob("*")) - before == {tmp_path / "files", tmp_path / "files" / ".secret"}

    def test_a_check_that_fails_is_a_finding_and_no_traceback(self):
        def broken() -> Iterable[Finding]:
            yield ok("first", "fine")
            raise RuntimeError("libdevice is not what it was\nat 0x1")

        first, second = guarded("second", broken)
        assert first.verdict is OK
        assert (second.check, second.verdict) == ("second", WRONG)
        assert second.found == "the check itself failed: RuntimeError: libdevice is not what it was"

    def test_a_secret_in_a_librarys_error_is_not_shown(self, tmp_path: Path):
        config = tmp_path / "retouch.yaml"
        options = {"endpoint": f"http://127.0.0.1:{free_port()}/{SECRET}", "secret_access_key": SECRET, "region": "x"}
        storage = {"url": "s3://bucket", "options": {**options, "access_key_id": "who"}}
        config.write_text(json.dumps({"models": [TINY], "storage": storage, "server": {"port": free_port()}}))
        found = {one.check: one for one in examine(config)}
        assert found["store"].verdict is WRONG
        assert "allow_http" in found["store"].found + found["store"].advice
        assert SECRET not in str(found)


class TestPackages:
    def test_what_is_installed_here_is_what_the_project_pins(self):
        found = [*packages.python(), *packages.of_server(), *packages.of_backends(Settings())]
        assert {one.check for one in found} >= {"python", "package ray", "package torch", "package openvino"}
        assert not [one for one in found if one.verdict is not OK]

    def test_another_version_is_a_warning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        _distribution(tmp_path, "diffusers", "0.1")
        monkeypatch.syspath_prepend(tmp_path)
        found = {one.check: one for one in packages.of_server()}["package diffusers"]
        assert found.verdict is WARNING
        assert found.found.startswith("0.1 is installed, tested is ==")
        assert f"{sys.executable} -m pip install diffusers==" in found.advice

    def test_a_missing_package_is_wrong_where_a_server_needs_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        _distribution(tmp_path, "retouch", "0.1.0", "Requires-Python: >=99", "Requires-Dist: no-such-package==1.0")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(packages, "ALWAYS", ("no-such-package",))
        assert verdicts(lambda _: packages.python(), Settings()) == [("python", WRONG)]
        first, *_ = packages.of_server()
        assert (first.verdict, first.found) == (WRONG, "is not installed")
        assert first.advice.endswith("pip install no-such-package==1.0")

    def test_a_missing_package_is_a_warning_where_nothing_names_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        _distribution(tmp_path, "retouch", "0.1.0", "Requires-Dist: no-such-package==1.0")
        monkeypatch.syspath_prepend(tmp_path)
        others = list(packages.of_server())[-1]
        assert (others.check, others.verdict) == ("other packages", WARNING)
        assert others.found == "no-such-package is not installed"


class TestAccess:
    @pytest.mark.parametrize(
        ("host", "anonymous", "verdict"),
        [("127.0.0.1", False, OK), ("0.0.0.0", False, WRONG), ("0.0.0.0", True, WARNING)],
    )
    def test_a_public_address_wants_keys(self, host: str, anonymous: bool, verdict: Verdict):
        asked = settings(server={"host": host}, auth={"allow_anonymous": anonymous})
        found = only(access.public_address, asked)
        assert found.verdict is verdict
        assert ("auth.keys_file" in found.advice) == (verdict is not OK)

    def test_keys_are_counted(self, tmp_path: Path):
        file = tmp_path / "keys.yaml"
        create_key(file, "ada", ("tiny",), {})
        asked = settings(server={"host": "0.0.0.0"}, auth={"keys_file": file})
        assert verdicts(access.public_address, asked) == [("public address", OK)]
        assert only(access.keys, asked) == ok("keys", f"1 in {file}")

    @pytest.mark.parametrize("text", [None, "keys: []\n", "keys: 7\n"])
    def test_a_file_without_keys_is_wrong(self, tmp_path: Path, text: str | None):
        file = tmp_path / "keys.yaml"
        if text is not None:
            file.write_text(text)
            file.chmod(0o600)
        found = only(access.keys, settings(auth={"keys_file": file}))
        assert found.verdict is WRONG
        assert str(file) in found.found
        assert found.advice

    @pytest.mark.parametrize(("mode", "verdict"), [(0o644, WARNING), (0o602, WRONG), (0o640, None)])
    def test_others_have_no_rights_to_it(self, tmp_path: Path, mode: int, verdict: Verdict | None):
        file = tmp_path / "keys.yaml"
        create_key(file, "ada", None, {})
        file.chmod(mode)
        _, *rest = access.keys(settings(auth={"keys_file": file}))
        assert [one.verdict for one in rest] == ([] if verdict is None else [verdict])
        for one in rest:
            subprocess.run(one.advice.removeprefix("close it: "), shell=True, check=True)
            assert not stat.S_IMODE(file.stat().st_mode) & 0o007

    def test_a_key_for_a_model_that_is_not_served_is_told(self, tmp_path: Path):
        file = tmp_path / "keys.yaml"
        create_key(file, "ada", ("tiny", "gone"), {})
        _, told = access.keys(settings(auth={"keys_file": file}))
        assert (told.verdict, told.found) == (WARNING, "that of ada names gone, which is not served")


class TestNetwork:
    def test_a_free_port_is_free_and_a_taken_one_is_taken(self):
        asked = settings()
        assert only(network.port, asked).verdict is OK
        with socket.create_server(("127.0.0.1", asked.server.port)):
            found = only(network.port, asked)
        assert found.verdict is WRONG
        assert found.found == f"port {asked.server.port} of 127.0.0.1 is taken"

    @pytest.mark.parametrize(
        ("ready", "verdict"), [(Answer({"status": "ready"}), OK), (refusal(503, "editor-tiny is not ready"), WRONG)]
    )
    def test_a_retouch_that_serves_there_is_asked_whether_it_is_ready(self, ready: Answer, verdict: Verdict):
        with listening(Answer({"status": "ok"}), ready) as peer:
            asked = settings(server={"port": int(peer.url.rpartition(":")[2])})
            found = only(network.port, asked)
        assert [one.path for one in peer.asked] == ["/healthz", "/readyz"]
        assert found.verdict is verdict
        assert ("editor-tiny is not ready" in found.found) == (verdict is WRONG)

    def test_another_server_there_is_no_retouch(self):
        with listening(Answer("hello")) as peer:
            found = only(network.port, settings(server={"port": int(peer.url.rpartition(":")[2])}))
        assert (found.verdict, found.found[-8:]) == (WRONG, "is taken")

    def test_hosts_of_links_stand_for_public_addresses(self):
        hosts = ("1.1.1.1", "*.example.org", "localhost", "nothing.invalid")
        asked = settings(links={"hosts": hosts}, server={"public_url": "https://nowhere.invalid/x"})
        assert verdicts(network.links, asked) == [
            ("link host 1.1.1.1", OK),
            ("link host localhost", WARNING),
            ("link host nothing.invalid", WARNING),
            ("public url", WARNING),
        ]


class TestStores:
    def test_a_folder_that_can_be_written_is_made(self, tmp_path: Path):
        asked = settings(storage={"folder": tmp_path / "files", "max_bytes": 2**24})
        assert verdicts(stores.store, asked) == [("store", OK), ("store's disk", OK)]

    def test_a_folder_that_cannot_be_made_is_wrong(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        found = only(stores.store, settings(storage={"folder": tmp_path / "file" / "files"}))
        assert found.verdict is WRONG
        assert found.found.endswith("cannot be used: Not a directory")

    def test_a_damaged_secret_is_wrong(self, tmp_path: Path):
        (tmp_path / ".secret").write_bytes(b"short")
        found = only(stores.store, settings(storage={"folder": tmp_path}))
        assert (found.verdict, found.advice) == (WRONG, "remove it, or set storage.secret")

    def test_a_disk_smaller_than_the_store_may_become_is_a_warning(self, tmp_path: Path):
        asked = settings(storage={"folder": tmp_path, "max_bytes": 2**60})
        assert verdicts(stores.store, asked) == [("store", OK), ("store's disk", WARNING)]

    def test_a_bucket_that_does_not_answer_is_wrong(self):
        options = {"endpoint": f"http://127.0.0.1:{free_port()}", "access_key_id": "x", "secret_access_key": SECRET}
        storage = {"url": "s3://b", "options": {**options, "region": "x"}, "client_options": {"allow_http": True}}
        found = only(stores.store, settings(storage=storage))
        assert (found.verdict, "cannot be reached" in found.found) == (WRONG, True)

    def test_the_cache_folder_and_the_step_log(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        for place, verdict, log_verdict in ((tmp_path / "new", OK, OK), (tmp_path / "file" / "new", WARNING, WRONG)):
            asked = settings(server={"cache_folder": place}, models=({**TINY, "step_log": place / "steps"},))
            assert verdicts(stores.cache_folder, asked) == [("cache folder", verdict)]
            assert verdicts(stores.step_logs, asked) == [("step log tiny", log_verdict)]
        assert not (tmp_path / "new").exists()


class TestTheMachine:
    def test_more_threads_than_cpus_is_a_warning(self):
        assert only(machine.cpus, settings()).verdict is OK
        many = ({**TINY, "threads": 4096},)
        assert only(machine.cpus, settings(models=many)).verdict is WARNING
        assert only(machine.cpus, settings(models=({**many[0], "backend": "simulated"},))).verdict is OK

    @pytest.mark.parametrize(("bodies_bytes", "verdict"), [(2**20, OK), (2**50, WARNING)])
    def test_the_object_store_has_room(self, bodies_bytes: int, verdict: Verdict):
        asked = settings(limits={"bodies_bytes": bodies_bytes})
        assert verdicts(machine.memory, asked) == [("memory", verdict)]
        assert verdicts(machine.shared_memory, asked) == [("shared memory", verdict)]

    def test_a_system_without_shared_memory_is_well(self, tmp_path: Path):
        (found,) = machine.shared_memory(settings(), tmp_path / "none")
        assert found.verdict is OK


class TestGpus:
    ON_CUDA: ModelSettings = ModelSettings.model_validate({**TINY, "device": "cuda", "num_gpus": 1})

    def test_where_no_model_asks_for_one_none_is_missed(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PATH", "")
        assert only(gpus.gpus, settings()) == ok("gpus", "no model asks for one; 0 found")

    def test_one_that_is_asked_for_and_not_there_is_wrong(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("PATH", "")
        found = only(gpus.gpus, settings(models=(self.ON_CUDA,)))
        assert found.verdict is WRONG
        assert "the models ask for 1 GPUs" in found.found
        assert "docker run --gpus all" in found.advice

    def test_what_is_there_is_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        _driver(tmp_path, monkeypatch, "echo 'NVIDIA H200, 570.1, 9.0, 143771, 143000'")
        first, second = gpus.gpus(settings(models=(self.ON_CUDA,)))
        assert (first.verdict, first.found) == (OK, "the models ask for 1; 1 found")
        assert second == ok("gpu 0", "NVIDIA H200, 143000 of 143771 MiB free, driver 570.1")
        more = settings(models=({**TINY, "device": "cuda", "num_gpus": 1, "replicas": {"min": 1, "max": 3}},))
        assert next(iter(gpus.gpus(more))).verdict is WARNING
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert only(gpus.gpus, settings(models=(self.ON_CUDA,))).verdict is WRONG

    def test_those_that_other_machines_of_a_cluster_have_are_not_missed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        _driver(tmp_path, monkeypatch, "echo 'NVIDIA H200, 570.1, 9.0, 143771, 143000'")
        eight = settings(models=({**TINY, "device": "cuda", "num_gpus": 1, "replicas": 8},))
        assert next(iter(gpus.gpus(eight))).verdict is WRONG
        monkeypatch.setenv("RAY_ADDRESS", "retouch-head-svc:6379")
        first, _ = gpus.gpus(eight)
        assert first.verdict is OK
        assert first.found == "the models ask for 8 in all of the cluster, of which `ray status` tells; 1 found here"

    def test_a_driver_that_fails_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        _driver(tmp_path, monkeypatch, "echo 'Failed to initialize NVML: version mismatch'; exit 18")
        assert only(gpus.gpus, settings()).verdict is WARNING
        found = only(gpus.gpus, settings(models=(self.ON_CUDA,)))
        assert (found.verdict, found.found) == (WRONG, "nvidia-smi fails: Failed to initialize NVML: version mismatch")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_model_on_cuda_where_torch_has_none_is_wrong(self):
        found = only(gpus.torch_on_gpus, settings(models=(self.ON_CUDA,)))
        assert found.verdict is WRONG
        assert found.found.startswith("device 'cuda' cannot be used on this machine")

    @pytest.mark.parametrize(
        ("built", "capability", "runs"),
        [
            ("sm_80 sm_90", "9.0", True),
            ("sm_80", "8.6", True),
            ("sm_80 sm_86", "9.0", False),
            ("sm_90", "8.9", False),
            ("sm_80 compute_80", "12.0", True),
            ("sm_100 sm_120", "12.0", True),
            ("sm_90a", "9.0", True),
            ("", "[N/A]", True),
        ],
    )
    def test_a_torch_without_kernels_for_a_chip_is_known(self, built: str, capability: str, runs: bool):
        assert gpus.has_kernels(built.split(), capability) is runs


class TestModels:
    def test_weights_on_torch_are_well(self, checkpoint: Path):
        found = only(models.models, settings(models=({**TINY, "weights": str(checkpoint)},)))
        assert (found.check, found.verdict) == ("weights tiny", OK)

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (lambda folder: (folder / "model_index.json").unlink(), "is no model folder: it has no model_index.json"),
            (lambda folder: (folder / "denoiser" / "config.json").write_text("{"), "config.json"),
            (lambda folder: _cut(folder / "denoiser"), "is damaged"),
            (lambda folder: _weights_of(folder / "text_encoder").unlink(), "holds no weights"),
            (lambda folder: _missing_shard(folder / "text_encoder"), "lacks part-2.safetensors, which model."),
        ],
    )
    def test_weights_that_are_not_whole_are_wrong(self, checkpoint: Path, fault: Callable[[Path], object], told: str):
        fault(checkpoint)
        found = only(models.models, settings(models=({**TINY, "weights": str(checkpoint)},)))
        assert (found.check, found.verdict) == ("weights tiny", WRONG)
        assert told in found.found
        assert found.advice

    def test_weights_larger_than_a_gpu_are_a_warning(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        model = {**TINY, "weights": str(checkpoint), "device": "cuda", "num_gpus": 1}
        for total_mib, expected in ((24000, [OK]), (0, [OK, WARNING])):
            _driver(tmp_path, monkeypatch, f"echo 'small, 570.1, 9.0, {total_mib}, 0'")
            assert [one.verdict for one in models.models(settings(models=(model,)))] == expected

    def test_an_unknown_family_or_component_is_wrong(self):
        for change in ({"family": "sdxl"}, {"components": {"vae": {"precision": "float32"}}}):
            found = only(models.models, settings(models=({**TINY, **change},)))
            assert (found.check, found.verdict) == ("model tiny", WRONG)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"backend": "onnxruntime", "precision": "bfloat16"}, "no bfloat16 kernels"),
            ({"backend": "simulated", "simulated": {"timings": "nowhere.yaml"}}, "nowhere.yaml"),
            ({"device": "tpu"}, "device 'tpu' cannot be used"),
            ({"backend": "tensorrt"}, "needs a CUDA device"),
        ],
    )
    def test_a_backend_that_cannot_run_is_wrong(self, change: dict[str, Any], told: str):
        first = next(iter(models.models(settings(models=({**TINY, **change},)))))
        assert first.verdict is WRONG
        assert told in first.found

    def test_a_hub_id_that_is_not_in_the_cache_would_be_downloaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        asked = settings(models=({**TINY, "family": "flux_kontext", "weights": "acme/kontext"},))
        found = only(models.models, asked)
        assert (found.verdict, found.advice) == (WARNING, "fetch them before: hf download acme/kontext")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert only(models.models, asked).verdict is WRONG

    def test_a_hub_id_in_the_cache_is_checked_as_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        commit = "a" * 40
        kept = tmp_path / "models--acme--kontext"
        checkpoints.flux_kontext(kept / "snapshots" / commit)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(commit)
        asked = settings(models=({**TINY, "family": "flux_kontext", "weights": "acme/kontext"},))
        assert only(models.models, asked).verdict is OK
        (kept / "snapshots" / commit / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        assert "vae holds no weights" in only(models.models, asked).found

    def test_neither_a_folder_nor_a_hub_id_is_wrong(self):
        asked = settings(models=({**TINY, "family": "flux_kontext", "weights": "/nowhere/kontext"},))
        assert only(models.models, asked).found == "weights '/nowhere/kontext' are neither a folder nor a hub id"

    def test_engines_are_refused_as_the_server_refuses_them(self, tmp_path: Path, embedded_engines: None):
        built = embedded_model().model_dump(mode="json")
        assert {one.verdict for one in models.models(settings(models=(built,)))} == {OK}

        config = tmp_path / "retouch.yaml"
        repository = tmp_path / "repository"
        shutil.copytree(embedded_model().model_repository, repository)
        manifest = repository / "retouch-tiny.denoiser" / "1" / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "weights": "of yesterday"}))
        shutil.rmtree(repository / "retouch-tiny.text_encoder")
        storage = {"folder": str(tmp_path / "files")}
        config.write_text(json.dumps({"models": [{**built, "model_repository": str(repository)}], "storage": storage}))
        found = {one.check: one for one in examine(config)}
        stale, missing = (found[f"engine retouch-tiny.{name}"] for name in ("denoiser", "text_encoder"))
        assert (stale.verdict, missing.verdict) == (WRONG, WRONG)
        assert "does not fit: its weights is of yesterday" in stale.found
        assert "is not built" in missing.found
        command = "build it: retouch build-engines --model retouch-tiny --components denoiser"
        assert stale.advice == f"{command} --backend openvino --precision bfloat16 --config {config}"

    def test_what_runs_elsewhere_counts_as_an_executor(self):
        model = ModelSettings.model_validate(
            {**TINY, "device": "cuda", "num_gpus": 1, "components": {"text_encoder": {"device": "cpu"}}}
        )
        assert [one.device for one in executors.executors(model)] == ["cuda", "cpu"]


class TestTriton:
    def test_one_that_is_not_there_is_wrong(self):
        address = f"127.0.0.1:{free_port()}"
        asked = settings(models=({**TINY, "backend": "triton", "triton": {"address": address}},))
        found = only(triton.triton, asked)
        assert (found.check, found.verdict) == ("triton of tiny", WRONG)
        assert found.found == f"no Triton server answers at {address} (triton.address)"

    def test_a_model_without_it_is_not_asked_about(self):
        assert not list(triton.triton(settings()))


def _distribution(folder: Path, name: str, version: str, *lines: str) -> None:
    """What importlib.metadata takes for an installed package."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(
        "\n".join(("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines))
    )


def _driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A driver's tool that does this."""
    tool = folder / gpus.TOOL
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def _weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _cut(folder: Path) -> None:
    file = _weights_of(folder)
    file.write_bytes(file.read_bytes()[:-1])


def _missing_shard(folder: Path) -> None:
    weights = {"first": _weights_of(folder).name, "second": "part-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
