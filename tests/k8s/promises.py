"""Whether pods keep what the manifests promise of them: no more rights than they need, memory that is theirs, versions
that stay, and time for what has begun."""

import re
from collections.abc import Iterator

from serve.deployments.app import STOP_MARGIN_S
from serve.errors import ConfigurationError
from tests.k8s.application import drains_s, settings_of
from tests.k8s.rendering import Manifest, of_kind, pod_templates

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
RAY_STOPS_S = 16
"""That `ray stop` gives its processes."""


def faults(manifests: list[Manifest]) -> Iterator[str]:
    for name, template in pod_templates(manifests).items():
        yield from (f"{name}: {fault}" for fault in _pod(template))
    yield from _head(manifests)
    yield from _shared_memory(manifests)
    yield from _time_to_end(manifests)
    yield from _budgets(manifests)


def bytes_of(quantity: str) -> int:
    """Raises ValueError where it is no quantity of bytes."""
    found = re.fullmatch(r"(\d+)([KMGT]i|[kMGT]|)", str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity of bytes")
    return int(found[1]) * UNITS[found[2]]


def _pod(template: Manifest) -> Iterator[str]:
    pod = template["spec"]
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield "may run as root"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token of Kubernetes that it has no use for"
    for container in pod["containers"]:
        rights = container.get("securityContext", {})
        if rights.get("allowPrivilegeEscalation") is not False or rights.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} may gain rights"
        requests, limits = (container["resources"].get(key, {}) for key in ("requests", "limits"))
        if not limits.get("memory") or requests.get("memory") != limits["memory"]:
            yield f"{container['name']} has no memory of its own (requests equal to limits)"
        image, _, tag = container["image"].rpartition(":")
        if not image or not re.search(r"\d", tag):
            yield f"{container['name']} names no version of its image {container['image']}"


def _head(manifests: list[Manifest]) -> Iterator[str]:
    """Whatever ran there would end with it, and its CPUs are those that keep the cluster's state."""
    for service in of_kind(manifests, "RayService"):
        told = service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]
        if told.get("num-cpus") != "0":
            yield "head: replicas may come to run there (num-cpus)"


def _shared_memory(manifests: list[Manifest]) -> Iterator[str]:
    """Ray's object store lies in /dev/shm, which counts as the container's memory."""
    for service in of_kind(manifests, "RayService"):
        cluster = service["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            name, pod = group.get("groupName", "head"), group["template"]["spec"]
            volumes = [volume for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
            mounts = {
                mount["name"] for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm"
            }
            shared = [volume["emptyDir"]["sizeLimit"] for volume in volumes if volume["name"] in mounts]
            if not shared or bytes_of(group["rayStartParams"]["object-store-memory"]) > bytes_of(shared[0]):
                yield f"{name}: the object store does not fit into its shared memory"
            limits = pod["containers"][0]["resources"].get("limits", {})
            if shared and bytes_of(shared[0]) > bytes_of(limits.get("memory", "0")) / 2:
                yield f"{name}: shared memory leaves less than half of the memory"


def _time_to_end(manifests: list[Manifest]) -> Iterator[str]:
    (service,) = of_kind(manifests, "RayService")
    try:
        edit_s = settings_of(manifests).limits.request_timeout_s + STOP_MARGIN_S
    except ConfigurationError:
        return
    if service["spec"]["rayClusterDeletionDelaySeconds"] < edit_s:
        yield f"an old cluster is deleted before edits of {edit_s:g} s have ended"
    for name, template in pod_templates([service]).items():
        if name == "head":
            continue
        waits_s, grace_s = drains_s(template), template["spec"]["terminationGracePeriodSeconds"]
        if waits_s is None or waits_s < edit_s:
            yield f"{name}: a pod stops before edits of {edit_s:g} s have ended"
        elif grace_s < waits_s + RAY_STOPS_S:
            yield f"{name}: a pod is killed {grace_s} s after it is asked to stop, while it waits {waits_s:g} s"


def _budgets(manifests: list[Manifest]) -> Iterator[str]:
    """One that keeps all pods would block every drain. RayClusters have no scale, so it has to count."""
    (service,) = of_kind(manifests, "RayService")
    groups = {group["groupName"]: group for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        name, kept = budget["metadata"]["name"], budget["spec"].get("minAvailable")
        group = groups.get(budget["spec"]["selector"]["matchLabels"].get("ray.io/group"))
        if not isinstance(kept, int) or group is None:
            yield f"budget {name} counts no pods of a group"
        elif kept >= group["minReplicas"]:
            yield f"budget {name} lets no node of {group['groupName']} be drained"
