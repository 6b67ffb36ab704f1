"""The manifests against KubeRay's own definition of its kinds, where a folder of them is at hand: the variable
KUBERAY_CRDS names it (`ray-operator/config/crd/bases` of KubeRay's repository)."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.k8s.rendering import K8S, OVERLAYS, of_kind, render
from tests.k8s.test_faults import KEYS, plant

VARIABLE = "KUBERAY_CRDS"


@pytest.fixture(scope="module")
def definition() -> Draft202012Validator:
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no folder of KubeRay's definitions")
    text = (Path(os.environ[VARIABLE]) / "ray.io_rayservices.yaml").read_text(encoding="utf-8")
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    return Draft202012Validator(_strict(schema))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_knows_every_key(definition: Draft202012Validator, overlay: str) -> None:
    (service,) = of_kind(render(K8S / "overlays" / overlay), "RayService")
    assert [f"{error.json_path}: {error.message}" for error in definition.iter_errors(service)] == []


def test_kuberay_refuses_what_is_refused_here(definition: Draft202012Validator) -> None:
    manifests = render(K8S / "overlays" / "gpu-pool")
    for kind, way, value in KEYS:
        if kind == "RayService":
            (planted,) = of_kind(plant(manifests, kind, way, value), kind)
            assert not definition.is_valid(planted), way


def _strict(schema: Any) -> Any:
    """With no key that it does not name, as an API server checks a field (`--validate=strict`)."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema and schema.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    if "metadata" in strict.get("properties", {}):
        strict["properties"]["metadata"] = {"type": "object"}
    return strict
