"""What `kubectl apply -k` would send to a cluster."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = sorted(file.parent.name for file in K8S.glob("overlays/*/kustomization.yaml"))

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """The kustomization of that folder. Raises AssertionError with what kustomize says of it."""
    ended = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))


def with_component(overlay: str, component: str, folder: Path) -> list[Manifest]:
    """An overlay with a component that it does not list, by a kustomization of its own in that folder."""
    parts = {
        "resources": [os.path.relpath(K8S / "overlays" / overlay, folder.resolve())],
        "components": [os.path.relpath(K8S / "components" / component, folder.resolve())],
    }
    header = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "retouch"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({**header, **parts}))
    return render(folder)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """By the name of who makes pods of them; those of a Ray cluster are `head` and the names of its groups."""
    found: dict[str, Manifest] = {}
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            cluster = manifest["spec"]["rayClusterConfig"]
            found["head"] = cluster["headGroupSpec"]["template"]
            found |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
        elif manifest["kind"] == "StatefulSet":
            found[manifest["metadata"]["name"]] = manifest["spec"]["template"]
        elif manifest["kind"] == "CronJob":
            found[manifest["metadata"]["name"]] = manifest["spec"]["jobTemplate"]["spec"]["template"]
    return found
