"""The images by their Dockerfile, which nothing here can build: its stages, pins, user, and what goes into it."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.rendering import K8S, OVERLAYS, ROOT, pod_templates, render

DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("cpu", "cuda")
HADOLINT = Path(sys.executable).parent / "hadolint"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass
class Stage:
    """instructions: as they stand there, continued lines joined."""

    name: str
    image: str
    instructions: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def of(self, kind: str) -> list[str]:
        return [text for instruction, text in self.instructions if instruction == kind]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    stage = Stage("", "")
    lines = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ").splitlines()
    for line in filter(None, lines):
        kind, _, text = line.partition(" ")
        if kind == "FROM":
            image, _, name = text.partition(" AS ")
            stage = found[name] = Stage(name, image)
        else:
            stage.instructions.append((kind, " ".join(text.split())))
    return found


def test_a_linter_has_nothing_to_say() -> None:
    ended = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_what_comes_from_elsewhere_is_pinned_by_version_and_digest(stages: dict[str, Stage]) -> None:
    elsewhere = {stage.image for stage in stages.values()} - stages.keys()
    assert elsewhere
    for image in elsewhere:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z-]+@sha256:[0-9a-f]{64}", image)


def test_python_is_one_that_the_server_runs_on_and_is_tested_with(stages: dict[str, Stage]) -> None:
    major, minor, _ = re.findall(r"\d+", stages["base"].image)[:3]
    assert PROJECT["requires-python"] == ">=3.11"
    assert (int(major), int(minor)) == (3, 11)


def test_every_package_is_held_to_the_versions_that_are_tested(stages: dict[str, Stage]) -> None:
    installs = [
        command.strip()
        for stage in stages.values()
        for text in stage.of("RUN")
        for command in text.split("&&")
        if "pip install" in command
    ]
    assert len(installs) == 5
    for command in installs:
        words = shlex.split(command)
        assert words[words.index("--constraint") + 1] == "constraints.txt"


def test_the_requirements_are_those_of_the_project(stages: dict[str, Stage], tmp_path: Path) -> None:
    """By the image's own command, run here."""
    (text,) = stages["dependencies"].of("RUN")
    command = text.split("&&")[1].strip().replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_nobody_special_on_the_base_alone(stages: dict[str, Stage], target: str) -> None:
    stage = stages[target]
    assert stage.image == "base"
    assert stage.of("USER") == ["10001:10001"]
    assert stage.of("RUN") == []
    assert stage.of("COPY") == [f"--from={target}-build /opt/retouch /opt/retouch"]


def test_pods_run_as_the_user_of_the_image() -> None:
    for overlay in OVERLAYS:
        for name, template in pod_templates(render(K8S / "overlays" / overlay)).items():
            if name != "redis":
                rights = template["spec"]["securityContext"]
                assert (rights["runAsUser"], rights["runAsGroup"], rights["fsGroup"]) == (10001, 10001, 10001)


def test_kuberays_probes_find_bash_and_wget(stages: dict[str, Stage]) -> None:
    (text,) = stages["base"].of("RUN")
    assert {"bash", "wget"} <= set(text.split("&&")[1].split())


def test_only_what_images_are_built_from_is_sent_to_their_builder() -> None:
    """Of the files that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    sent = [name for name in listed.stdout.splitlines() if _is_sent(name)]
    tops = {name.split("/")[0] for name in sent}
    packages = {"serve", "build_engines", "embedded_model", "benchmarks"}
    assert tops == {"pyproject.toml", "constraints.txt", "README.md", *packages}
    missing = [name for name in listed.stdout.splitlines() if name.endswith(".py") and name.split("/")[0] in packages]
    assert set(missing) <= set(sent)
    assert {"embedded_model/checkpoint/model_index.json", "serve/playground/index.html"} <= set(sent)


def test_the_tag_is_the_version() -> None:
    tags = re.findall(r"retouch:([\d.]+)-", DOCKERFILE.read_text() + (K8S / "README.md").read_text())
    assert set(tags) == {PROJECT["version"]}


def test_the_readme_builds_the_targets_that_are_there(stages: dict[str, Stage]) -> None:
    text = DOCKERFILE.read_text() + (K8S / "README.md").read_text()
    assert set(re.findall(r"--target (\S+)", text)) == set(TARGETS) <= stages.keys()


def _is_sent(name: str) -> bool:
    """By the last line of .dockerignore that says something of it."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = name.split("/")
        whole = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        at = parts if line.startswith("**/") else whole
        if line and not line.startswith("#") and any(fnmatch.fnmatch(one, pattern) for one in at):
            sent = line.startswith("!")
    return sent
