"""KubeRay's own definition of a RayService, of which every key must be known.

`ray.io_rayservices-1.7.0.yaml.xz` is `ray-operator/config/crd/bases/ray.io_rayservices.yaml` of
https://github.com/ray-project/kuberay at the tag v1.7.0, unchanged but for being compressed (Apache License 2.0).
"""

import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.k8s.rendering import Manifest

VERSION = "1.7.0"
FILE = Path(__file__).parent / f"ray.io_rayservices-{VERSION}.yaml.xz"


def definition() -> bytes:
    """As KubeRay ships it."""
    return lzma.decompress(FILE.read_bytes())


def faults(service: Manifest) -> Iterator[str]:
    for error in _validator().iter_errors(service):
        yield f"RayService {service['metadata']['name']}: {error.json_path}: {error.message}"


@cache
def _validator() -> Draft202012Validator:
    versions = yaml.load(definition(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    return Draft202012Validator(_strict(schema))


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
