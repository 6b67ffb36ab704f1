"""Whether manifests have the form of their kinds: of Kubernetes' own by its schemas, of a RayService by KubeRay's
definition, of it and of others by `custom_kinds`."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from pydantic import ValidationError
from referencing import Registry, Resource

from tests.k8s import kuberay
from tests.k8s.custom_kinds import CUSTOM_KINDS
from tests.k8s.rendering import Manifest, pod_templates

VERSION = "1.37"
"""Of Kubernetes."""
_SCHEMAS = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"
"""In which no object takes a key that it does not know."""


def faults(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        where = f"{manifest['kind']} {manifest['metadata']['name']}"
        custom = CUSTOM_KINDS.get(manifest["kind"])
        if custom is None:
            yield from _built_in(where, manifest)
            continue
        try:
            custom.model_validate(manifest)
        except ValidationError as error:
            yield from (f"{where}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    yield from _embedded(manifests)


def _embedded(manifests: list[Manifest]) -> Iterator[str]:
    """A RayService as KubeRay defines it, and the built-in types within."""
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            yield from kuberay.faults(manifest)
            templates = {**pod_templates([manifest]), "autoscaler": _autoscaler(manifest)}
            for name, template in templates.items():
                header = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
                yield from _built_in(f"the pods of {name}", {**header, "template": template})


def _autoscaler(manifest: Manifest) -> Manifest:
    """What KubeRay makes of its options, as a pod of its own."""
    cluster = manifest["spec"]["rayClusterConfig"]
    keys = ("resources", "securityContext", "env", "envFrom", "volumeMounts")
    container = {key: value for key, value in cluster["autoscalerOptions"].items() if key in keys}
    password = {"name": "REDIS_PASSWORD", **cluster["gcsFaultToleranceOptions"]["redisPassword"]}
    container["env"] = [*container.get("env", []), password]
    return {"spec": {"containers": [{"name": "autoscaler", **container}]}}


def _built_in(where: str, manifest: Manifest) -> Iterator[str]:
    group, _, version = manifest["apiVersion"].rpartition("/")
    api = "-".join(part for part in (group.split(".")[0], version) if part)
    try:
        checker = _validator(manifest["kind"].lower(), api)
    except FileNotFoundError:
        yield f"{where}: Kubernetes {VERSION} has no {manifest['kind']} in {manifest['apiVersion']}"
        return
    for error in checker.iter_errors(manifest):
        yield f"{where}: {error.json_path}: {error.message}"


@cache
def _validator(kind: str, api: str) -> Validator:
    schema = Resource[Any].from_contents(_json(f"{kind}-{api}.json"))
    return Draft202012Validator(schema.contents, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    name = "_definitions.json"
    return Resource[Any].from_contents(_json(name)) @ Registry[Any]()


def _json(name: str) -> Any:
    return json.loads((_SCHEMAS / name).read_text(encoding="utf-8"))
