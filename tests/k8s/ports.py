"""Whether the ports and labels that manifests ask for are those that pods have."""

from collections.abc import Iterator, Mapping
from typing import Any

from serve import strict_yaml
from tests.k8s.rendering import Manifest, of_kind, pod_templates

RAY_LABELS = {
    "ray.io/is-ray-node": {"yes"},
    "ray.io/node-type": {"head", "worker", "redis-cleanup"},
}
"""That KubeRay gives its pods; `ray.io/group` is the name of a group."""


def faults(manifests: list[Manifest]) -> Iterator[str]:
    (service,) = of_kind(manifests, "RayService")
    port = strict_yaml.load(service["spec"]["serveConfigV2"])["http_options"]["port"]
    templates = pod_templates([service])
    for group, template in templates.items():
        if _port_of(template, "serve") != port:
            yield f"the port serve of {group} is not the {port} of http_options"
    services = {one["metadata"]["name"]: _numbers(one) for one in of_kind(manifests, "Service")}
    yield from _redis(service, services)
    yield from _ingresses(manifests, {**services, f"{service['metadata']['name']}-serve-svc": [port]})
    yield from _services(manifests)
    yield from _monitors(manifests, templates)
    yield from _selectors(manifests)


def _numbers(service: Manifest) -> list[int]:
    return [port["port"] for port in service["spec"]["ports"]]


def _redis(service: Manifest, services: Mapping[str, list[int]]) -> Iterator[str]:
    address = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"]
    host, _, number = address.rpartition(":")
    if "." not in host and int(number) not in services.get(host, []):
        yield f"redisAddress: no Service {host} has port {number}"


def _ingresses(manifests: list[Manifest], services: Mapping[str, list[int]]) -> Iterator[str]:
    for ingress in of_kind(manifests, "Ingress"):
        for path in (path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]):
            backend = path["backend"]["service"]
            if backend["port"]["number"] not in services.get(backend["name"], []):
                yield f"Ingress {ingress['metadata']['name']}: no Service {backend['name']} has port {backend['port']}"


def _services(manifests: list[Manifest]) -> Iterator[str]:
    for service in of_kind(manifests, "Service"):
        selector = service["spec"]["selector"].items()
        pods = [one for one in pod_templates(manifests).values() if selector <= _labels(one).items()]
        for wanted in service["spec"]["ports"]:
            if not any(_port_of(pod, wanted["targetPort"]) for pod in pods):
                yield f"Service {service['metadata']['name']}: no pod has its port {wanted['targetPort']}"


def _monitors(manifests: list[Manifest], templates: Mapping[str, Manifest]) -> Iterator[str]:
    for monitor in of_kind(manifests, "PodMonitor"):
        head_alone = monitor["spec"]["selector"]["matchLabels"].get("ray.io/node-type") == "head"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for group, template in templates.items():
                if (group == "head" or not head_alone) and not _port_of(template, endpoint["port"]):
                    yield f"PodMonitor {monitor['metadata']['name']}: {group} has no port {endpoint['port']}"


def _selectors(manifests: list[Manifest]) -> Iterator[str]:
    """Labels that budgets, policies and spreads ask for are those that some pod has."""
    (service,) = of_kind(manifests, "RayService")
    groups = {group["groupName"] for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    labels = {name: set(values) for name, values in RAY_LABELS.items()} | {"ray.io/group": groups | {"headgroup"}}
    for template in pod_templates(manifests).values():
        for key, value in _labels(template).items():
            labels.setdefault(key, set()).add(value)
    for manifest in manifests:
        for selector in _pod_selectors(manifest):
            for key, value in selector.get("matchLabels", {}).items():
                if value not in labels.get(key, set()):
                    yield f"{manifest['kind']} {manifest['metadata']['name']}: no pod has {key}: {value}"


def _pod_selectors(value: Any) -> Iterator[Manifest]:
    """Of this namespace's pods: beside a namespaceSelector, one is of another's."""
    if isinstance(value, list):
        for one in value:
            yield from _pod_selectors(one)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ("podSelector", "labelSelector", "selector") and isinstance(inner, dict):
                if "namespaceSelector" not in value and "matchLabels" in inner:
                    yield inner
            else:
                yield from _pod_selectors(inner)


def _labels(template: Manifest) -> dict[str, str]:
    return template.get("metadata", {}).get("labels", {})


def _port_of(template: Manifest, name: str) -> int | None:
    """Of the first container, which KubeRay takes for Ray's."""
    ports = template["spec"]["containers"][0].get("ports", [])
    return next((port["containerPort"] for port in ports if port.get("name") == name), None)
