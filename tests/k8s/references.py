"""Whether everything that manifests name is there: what they bring themselves, what KubeRay makes, and the Secrets that
the README has an operator create."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from serve import strict_yaml
from serve.errors import ConfigurationError
from tests.k8s.application import settings_of
from tests.k8s.rendering import K8S, Manifest, of_kind, pod_templates

CLUSTERS_OWN = {"kube-root-ca.crt": {"ca.crt"}}
"""ConfigMaps that Kubernetes puts into every namespace."""


def created_secrets(text: str) -> dict[str, set[str]]:
    """The keys of each Secret that a text's commands create."""
    found = {name: {"tls.crt", "tls.key"} for name in re.findall(r"create secret tls (\S+)", text)}
    for name, rest in re.findall(r"create secret generic (\S+)((?:[^\n]*\\\n)*[^\n]*)", text):
        found.setdefault(name, set()).update(re.findall(r"--from-(?:file|literal)=([^=\s]+)", rest))
    return found


def faults(manifests: list[Manifest]) -> Iterator[str]:
    there = {
        "configMap": CLUSTERS_OWN
        | {one["metadata"]["name"]: set(one["data"]) for one in of_kind(manifests, "ConfigMap")},
        "secret": created_secrets((K8S / "README.md").read_text()),
        "persistentVolumeClaim": {one["metadata"]["name"]: None for one in of_kind(manifests, "PersistentVolumeClaim")},
        "serviceAccount": {one["metadata"]["name"]: None for one in of_kind(manifests, "ServiceAccount")},
    }
    for manifest in manifests:
        for kind, name, key in _named(manifest):
            if name not in there[kind]:
                yield f"{manifest['kind']} {manifest['metadata']['name']}: there is no {kind} {name}"
            elif key and key not in (there[kind][name] or {key}):
                yield f"{manifest['kind']} {manifest['metadata']['name']}: {kind} {name} has no key {key}"
    yield from _mounts(manifests)
    yield from _paths(manifests)


def _named(value: Any) -> Iterator[tuple[str, str, str]]:
    """(kind, name, key) of what a manifest refers to, at any depth; what is optional may be missing."""
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        match key:
            case "configMapRef" | "configMapKeyRef" | "configMap" if isinstance(inner, dict):
                items = [item["key"] for item in inner.get("items", [])] or [inner.get("key", "")]
                yield from (("configMap", inner["name"], item) for item in items)
            case "secretRef" | "secretKeyRef" if not inner.get("optional"):
                yield "secret", inner["name"], inner.get("key", "")
            case "secret" | "tls" if isinstance(inner, dict | list):
                entries = inner if isinstance(inner, list) else [inner]
                yield from (("secret", entry["secretName"], "") for entry in entries)
            case "persistentVolumeClaim":
                yield "persistentVolumeClaim", inner["claimName"], ""
            case "serviceAccountName":
                yield "serviceAccount", inner, ""
            case _:
                yield from _named(inner)


def _mounts(manifests: list[Manifest]) -> Iterator[str]:
    claims = {
        one["metadata"]["name"]: [claim["metadata"]["name"] for claim in one["spec"]["volumeClaimTemplates"]]
        for one in of_kind(manifests, "StatefulSet")
    }
    for name, template in pod_templates(manifests).items():
        volumes = [*(volume["name"] for volume in template["spec"].get("volumes", [])), *claims.get(name, [])]
        for container in template["spec"]["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{container['name']} mounts {mount['name']}, which is no volume of {name}"


def _paths(manifests: list[Manifest]) -> Iterator[str]:
    """Files that the application reads lie in what is mounted there."""
    (service,) = of_kind(manifests, "RayService")
    application = strict_yaml.load(service["spec"]["serveConfigV2"])["applications"][0]
    try:
        settings = settings_of(manifests)
    except ConfigurationError:
        return
    maps = {one["metadata"]["name"]: set(one["data"]) for one in of_kind(manifests, "ConfigMap")}
    secrets = created_secrets((K8S / "README.md").read_text())
    file, keys = PurePosixPath(application["args"]["config"]), PurePosixPath(settings.auth.keys_file or "")
    for name, template in pod_templates([service]).items():
        mounted = _mounted(template)
        held = mounted.get(str(file.parent), {}).get("configMap", {}).get("name")
        if file.name not in maps.get(held, set()):
            yield f"{name}: nothing mounts the configuration {file}"
        held = mounted.get(str(keys.parent), {}).get("secret", {}).get("secretName")
        if keys.name not in secrets.get(held, set()):
            yield f"{name}: nothing mounts the keys {keys}"
    for model in (one for one in settings.models if one.num_gpus):
        root = "/" + model.model_repository.parts[1]
        if "persistentVolumeClaim" not in _mounted(pod_templates([service])["gpu"]).get(root, {}):
            yield f"gpu: nothing mounts the model repository {model.model_repository}"


def _mounted(template: Manifest) -> dict[str, Manifest]:
    """The volumes of the first container, KubeRay's Ray, by where they are mounted."""
    volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
    mounts = template["spec"]["containers"][0]["volumeMounts"]
    return {mount["mountPath"]: volumes.get(mount["name"], {}) for mount in mounts}
