"""Whether the application would start: our configuration by our own settings, Ray Serve's by Ray's schema, of which
every key must be known, and each deployment by the room that some worker has for it."""

import importlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.serve import Deployment
from ray.serve._private.build_app import build_app
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from serve import strict_yaml
from serve.deployments import app, drain
from serve.errors import ConfigurationError
from serve.settings import Settings, load
from tests.k8s.rendering import Manifest, of_kind, pod_templates

SETTINGS_KEY = "retouch.yaml"


def unreadable(manifests: list[Manifest]) -> Iterator[str]:
    """What Ray would drop in silence of its part, or refuse."""
    config = _serve_config(manifests)
    yield from (f"serveConfigV2: unknown key {key}" for key in unknown_keys(ServeDeploySchema, config))
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        yield from (f"serveConfigV2: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())


def faults(manifests: list[Manifest]) -> Iterator[str]:
    """Of what can be read."""
    (service,) = of_kind(manifests, "RayService")
    schema = ServeDeploySchema.model_validate(_serve_config(manifests))
    paths = [application.import_path for application in schema.applications]
    values = [value for one in of_kind(manifests, "ConfigMap") for value in one["data"].values()]
    for path in (*paths, *(value for value in values if re.fullmatch(r"serve\.[\w.]+:\w+", value))):
        yield from _import_path(path)
    try:
        deployments = {one.name: one for one in _deployments(manifests)}
    except ConfigurationError as error:
        yield str(error)
        return
    for application in schema.applications:
        yield from _replicas(application, deployments, _groups(service))


def settings_of(manifests: list[Manifest]) -> Settings:
    """Raises ConfigurationError."""
    with tempfile.TemporaryDirectory() as folder:
        return load(_settings_file(manifests, Path(folder)))


def unknown_keys(model: type[BaseModel], values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Those that pydantic would drop in silence, at any depth, with the way to them."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{where}{key}"
            continue
        for inner in _models_in(field.annotation):
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    yield from unknown_keys(inner, one, f"{where}{key}.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _import_path(path: str) -> Iterator[str]:
    module, _, name = path.partition(":")
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        yield f"{path} cannot be imported: {error}"


def _serve_config(manifests: list[Manifest]) -> dict[str, Any]:
    (service,) = of_kind(manifests, "RayService")
    return strict_yaml.load(service["spec"]["serveConfigV2"])


def _settings_file(manifests: list[Manifest], folder: Path) -> Path:
    (settings,) = (one for one in of_kind(manifests, "ConfigMap") if SETTINGS_KEY in one["data"])
    file = folder / SETTINGS_KEY
    file.write_text(settings["data"][SETTINGS_KEY])
    return file


def _deployments(manifests: list[Manifest]) -> list[Deployment]:
    with tempfile.TemporaryDirectory() as folder:
        application = app.build({"config": str(_settings_file(manifests, Path(folder)))})
    return build_app(application, name=app.APPLICATION).deployments


def _groups(service: Manifest) -> list[tuple[Manifest, float, float]]:
    """Each worker group, with the CPUs and GPUs that Ray counts in one of its pods."""
    templates = pod_templates([service])
    found: list[tuple[Manifest, float, float]] = []
    for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        limits = templates[group["groupName"]]["spec"]["containers"][0]["resources"].get("limits", {})
        told = group["rayStartParams"]
        cpus = told.get("num-cpus", limits.get("cpu", 0))
        gpus = told.get("num-gpus", limits.get("nvidia.com/gpu", 0))
        found.append((group, float(cpus), float(gpus)))
    return found


def _replicas(
    application: ServeApplicationSchema,
    deployments: Mapping[str, Deployment],
    groups: list[tuple[Manifest, float, float]],
) -> Iterator[str]:
    """Ray waits for ever for a worker that no group can bring."""
    changed = {one.name: one for one in application.deployments}
    yield from (f"serveConfigV2: there is no deployment {name}" for name in changed if name not in deployments)
    for name, deployment in deployments.items():
        options = deployment.ray_actor_options or {}
        cpus, gpus = options.get("num_cpus", 1), options.get("num_gpus", 0)
        least, most = _bounds(deployment, changed.get(name))
        room = [(group, _in_one(has_cpus, cpus, has_gpus, gpus)) for group, has_cpus, has_gpus in groups]
        for key, wanted in (("minReplicas", least), ("maxReplicas", most)):
            if sum(group[key] * count for group, count in room) < wanted:
                yield f"{name} wants {wanted} replicas, for which no group has room ({key})"


def _bounds(deployment: Deployment, changed: DeploymentSchema | None) -> tuple[int, int]:
    """The least and the most replicas, by Ray Serve's part where that says something of them."""
    own = deployment._deployment_config  # pyright: ignore[reportPrivateUsage]  # Ray offers no public way to ask.
    told: Any = changed.autoscaling_config if changed and "autoscaling_config" in changed.model_fields_set else None
    bounds = told or (own.autoscaling_config.model_dump() if own.autoscaling_config else {})
    return bounds.get("min_replicas", own.num_replicas), bounds.get("max_replicas", own.num_replicas)


def _in_one(has_cpus: float, cpus: float, has_gpus: float, gpus: float) -> int:
    """How many replicas fit into one pod."""
    fit = [int(has // wanted) for has, wanted in ((has_cpus, cpus), (has_gpus, gpus)) if wanted]
    return min(fit) if fit else 0


def drains_s(template: Manifest) -> float | None:
    """How long a pod's Ray worker waits for its edits to end before it stops."""
    hook = template["spec"]["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {})
    wait = rf"python -m {re.escape(drain.__name__)} (\d+); ray stop$"
    found = re.search(wait, " ".join(hook.get("command", [])))
    return float(found[1]) if found else None
