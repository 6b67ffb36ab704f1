"""A manifest that is broken is refused: one fault is planted in what kustomize has rendered, and has to be found."""

import copy
import re
from typing import Any

import pytest
import yaml

from tests.k8s.faults import faults
from tests.k8s.rendering import K8S, Manifest, render, with_component

CLUSTER = "spec.rayClusterConfig"
HEAD = f"{CLUSTER}.headGroupSpec.template.spec"
CPU = f"{CLUSTER}.workerGroupSpecs.0"
GPU = f"{CLUSTER}.workerGroupSpecs.1"
WORKER = f"{GPU}.template.spec.containers.0"
GONE = "gone"

KEYS = [
    ("RayService", "spec.rayClusterConfigs", {}),
    ("RayService", "spec.upgradeStrategy.types", "NewCluster"),
    ("RayService", f"{CLUSTER}.enableInTreeAutoscalling", True),
    ("RayService", f"{CLUSTER}.autoscalerOptions.idleTimeoutSecond", 60),
    ("RayService", f"{CLUSTER}.autoscalerOptions.resources.request", {}),
    ("RayService", f"{CLUSTER}.autoscalerOptions.volumeMounts.0.readonly", True),
    ("RayService", f"{CLUSTER}.gcsFaultToleranceOptions.redisPassword.valueFrom.secretRef", {}),
    ("RayService", f"{GPU}.minReplica", 1),
    ("RayService", f"{HEAD}.automountServiceAccountTokens", False),
    ("RayService", f"{HEAD}.volumes.0.configMap.nam", "x"),
    ("RayService", f"{WORKER}.imagePullPolice", "Always"),
    ("RayService", f"{WORKER}.securityContext.capabilities.dropp", ["ALL"]),
    ("RayService", f"{WORKER}.lifecycle.preStop.exec.commands", []),
    ("StatefulSet", "spec.template.spec.containers.0.readinessProbe.periodSecond", 5),
    ("CronJob", "spec.jobTemplate.spec.backofLimit", 1),
    ("NetworkPolicy", "spec.ingress.0.ports.0.protocoll", "TCP"),
    ("PodDisruptionBudget", "spec.minimum", 1),
    ("PodMonitor", "spec.podMetricsEndpoints.0.paths", "/metrics"),
    ("PrometheusRule", "spec.groups.0.rules.0.fore", "5m"),
    ("PrometheusRule", "spec.groups.0.rules.0.annotations.runbook", "k8s/README.md#edits-fail"),
    ("Namespace", "metadata.label", {}),
]
"""That nobody knows, at every depth: (kind, way, value)."""

VALUES = [
    ("RayService", f"{CLUSTER}.enableInTreeAutoscaling", "yes"),
    ("RayService", f"{CLUSTER}.workerGroupSpecs.1.maxReplicas", "8"),
    ("RayService", f"{CLUSTER}.workerGroupSpecs.1.minReplicas", 9),
    ("RayService", f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", 0),
    ("RayService", f"{CLUSTER}.autoscalerOptions.version", "v3"),
    ("RayService", f"{CLUSTER}.authOptions.mode", "disabled"),
    ("RayService", f"{GPU}.template.spec.restartPolicy", "Always"),
    ("RayService", f"{WORKER}.ports.0.containerPort", "8000"),
    ("RayService", f"{WORKER}.envFrom", {}),
    ("RayService", "spec.upgradeStrategy.clusterUpgradeOptions", GONE),
    ("RayService", "spec.upgradeStrategy.clusterUpgradeOptions.stepSizePercent", 50),
    ("RayService", "apiVersion", "ray.io/v1alpha1"),
    ("PrometheusRule", "spec.groups.0.rules.0.for", 300),
    ("PrometheusRule", "spec.groups.0.rules.0.labels.severity", "warning"),
    ("PrometheusRule", "spec.groups.0.rules.0.annotations.runbook_url", "README.md"),
    ("StatefulSet", "spec.replicas", "1"),
    ("StatefulSet", "apiVersion", "apps/v1beta1"),
    ("CronJob", "spec.suspend", "true"),
    ("PersistentVolumeClaim", "spec.accessModes", "ReadWriteMany"),
]
"""Of a wrong type, or outside their range."""

MEANINGS = [
    ("RayService", f"{HEAD}.volumes.0.configMap.name", "retouch", "there is no configMap retouch"),
    ("RayService", f"{HEAD}.volumes.1.secret.secretName", "retouch-key", "there is no secret retouch-key"),
    ("RayService", f"{WORKER}.envFrom.0.configMapRef.name", "environment", "there is no configMap environment"),
    ("RayService", f"{GPU}.template.spec.volumes.3.persistentVolumeClaim.claimName", "model", "Claim model"),
    ("RayService", f"{GPU}.template.spec.serviceAccountName", "gpu", "there is no serviceAccount gpu"),
    ("RayService", f"{GPU}.template.spec.volumes.2.name", "shared", "mounts shared-memory, which is no volume of gpu"),
    ("RayService", f"{WORKER}.volumeMounts.0.mountPath", "/etc/edits", "nothing mounts the configuration"),
    ("RayService", f"{WORKER}.volumeMounts.1.mountPath", "/etc/keys", "nothing mounts the keys"),
    ("RayService", f"{WORKER}.volumeMounts.3.mountPath", "/weights", "nothing mounts the model repository"),
    ("CronJob", "spec.jobTemplate.spec.template.spec.containers.0.env.1.valueFrom.secretKeyRef.key", "hf", "no key hf"),
    ("StatefulSet", "spec.template.spec.containers.0.volumeMounts.0.name", "disk", "mounts disk, which is no volume"),
    ("RayService", f"{WORKER}.ports.0.containerPort", 8001, "the port serve of gpu is not the 8000"),
    ("RayService", f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress", "redis:6380", "no Service redis has port 6380"),
    ("Service", "spec.ports.0.targetPort", "redis-server", "no pod has its port redis-server"),
    ("Ingress", "spec.rules.0.http.paths.0.backend.service.port.number", 80, "no Service retouch-serve-svc has port"),
    ("Ingress", "spec.rules.0.http.paths.0.backend.service.name", "retouch", "no Service retouch has port"),
    ("PodMonitor", "spec.podMetricsEndpoints.0.port", "metric", "has no port metric"),
    ("PodDisruptionBudget", "spec.minAvailable", 2, "lets no node of cpu be drained"),
    ("PodDisruptionBudget", "spec.minAvailable", "50%", "counts no pods"),
    ("PodDisruptionBudget", "spec.selector.matchLabels", {"ray.io/group": "cpus"}, "no pod has ray.io/group: cpus"),
    ("RayService", f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", "2", "head: replicas may come to run there"),
    ("RayService", f"{CLUSTER}.headGroupSpec.rayStartParams.num-cpus", GONE, "head: replicas may come to run there"),
    ("RayService", f"{HEAD}.securityContext.runAsNonRoot", False, "head: may run as root"),
    ("RayService", f"{HEAD}.automountServiceAccountToken", GONE, "head: gets a token"),
    ("RayService", f"{WORKER}.securityContext.allowPrivilegeEscalation", True, "gpu: ray-worker may gain rights"),
    ("RayService", f"{WORKER}.resources.requests.memory", "1Gi", "gpu: ray-worker has no memory of its own"),
    ("RayService", f"{WORKER}.image", "registry.example.com/retouch:latest", "names no version of its image"),
    ("RayService", f"{CPU}.rayStartParams.object-store-memory", "9000000000", "does not fit into its shared memory"),
    ("RayService", f"{CPU}.template.spec.volumes.2.emptyDir.sizeLimit", "20Gi", "shared memory leaves less than half"),
    ("RayService", f"{CPU}.template.spec.terminationGracePeriodSeconds", 30, "a pod is killed 30 s after"),
    ("RayService", f"{CPU}.template.spec.containers.0.lifecycle", GONE, "cpu: a pod stops before edits of 610 s"),
    ("RayService", "spec.rayClusterDeletionDelaySeconds", 60, "an old cluster is deleted before edits of 610 s"),
    ("RayService", f"{GPU}.rayStartParams.num-gpus", "0", "editor-flux-kontext wants 2 replicas"),
    ("RayService", f"{GPU}.maxReplicas", 4, r"editor-flux-kontext wants 8 replicas, .* \(maxReplicas\)"),
    ("RayService", f"{CPU}.template.spec.containers.0.resources.limits.cpu", "0.1", "codec wants 4 replicas"),
]
"""That have the form of their kind, and cannot work: (kind, way, value, what is said)."""


def _deployment(keys: str) -> tuple[str, str]:
    return "route_prefix: /", f"route_prefix: /\n    deployments: [{{{keys}}}]"


SERVE = [
    (
        "import_path: serve.deployments.app:build",
        "import_path: serve.deployments.app:make",
        "app:make cannot be imported",
    ),
    ("import_path: serve.deployments.app:build", "import_path: serve.application:build", "No module named"),
    ("http_options:", "http_option:", "unknown key http_option"),
    ("port: 8000", "port: 8000, hosts: x", "unknown key http_options.hosts"),
    ("port: 8000", "port: eight", "http_options.port: Input should be"),
    ("port: 8000", "port: 8080", "the port serve of head is not the 8080"),
    ("route_prefix:", "route_prefixes:", "unknown key applications.route_prefixes"),
    (*_deployment("name: editor-flux"), "there is no deployment editor-flux"),
    (*_deployment("name: codec, max_ongoing_request: 4"), "unknown key applications.deployments.max_ongoing_request"),
    (*_deployment("name: codec, ray_actor_options: {num_gpu: 1}"), "deployments.ray_actor_options.num_gpu"),
    (*_deployment("name: codec, autoscaling_config: {max_replica: 4}"), "autoscaling_config.max_replica"),
    (*_deployment("name: codec, autoscaling_config: {min_replicas: 1, max_replicas: 99}"), "codec wants 99 replicas"),
    ("/etc/retouch/retouch.yaml", "/etc/retouch/settings.yaml", "nothing mounts the configuration"),
]
"""In Ray Serve's part: (text, other text, what is said)."""

SETTINGS = [
    ("max_batch:", "max_batches:", r"unknown configuration key models\.0\.max_batches"),
    ("max_batch: 4", "max_batch: many", "max_batch"),
    ("family: flux_kontext", "family: flux", "family 'flux' is none of"),
    ("url: s3://", "url: ftp://", "none of s3://bucket/prefix"),
    ("auth:", "auths:", "unknown configuration key auths"),
    ("keys_file: /etc/retouch-keys/keys.yaml", "allow_anonymous: false", "there are no API keys"),
    ("keys_file: /etc/retouch-keys/keys.yaml", "keys_file: /etc/retouch-keys/key.yaml", "nothing mounts the keys"),
    ("num_cpus: 0", "num_cpus: 2", "editor-flux-kontext wants 2 replicas"),
    ("max: 8", "max: 9", "editor-flux-kontext wants 9 replicas"),
    ("max: 8", "maximum: 8", r"unknown configuration key models\.0\.replicas\.maximum"),
]
"""In our configuration, likewise."""


@pytest.mark.parametrize(("kind", "way", "value"), [*KEYS, *VALUES])
def test_what_has_not_the_form_of_its_kind_is_refused(
    sound: list[Manifest], kind: str, way: str, value: object
) -> None:
    key = way.rpartition(".")[2]
    assert any(key in fault or str(value) in fault for fault in faults(plant(sound, kind, way, value)))


@pytest.mark.parametrize(("kind", "way", "value", "said"), MEANINGS)
def test_what_cannot_work_is_refused(sound: list[Manifest], kind: str, way: str, value: object, said: str) -> None:
    assert _says(faults(plant(sound, kind, way, value)), said)


@pytest.mark.parametrize(("text", "other", "said"), SERVE)
def test_a_fault_in_the_application_is_refused(sound: list[Manifest], text: str, other: str, said: str) -> None:
    planted = copy.deepcopy(sound)
    (service,) = (one for one in planted if one["kind"] == "RayService")
    assert text in service["spec"]["serveConfigV2"]
    service["spec"]["serveConfigV2"] = service["spec"]["serveConfigV2"].replace(text, other)
    assert _says(faults(planted), said)


@pytest.mark.parametrize(("text", "other", "said"), SETTINGS)
def test_a_fault_in_the_configuration_is_refused(sound: list[Manifest], text: str, other: str, said: str) -> None:
    planted = copy.deepcopy(sound)
    (settings,) = (one for one in planted if "retouch.yaml" in one.get("data", {}))
    assert text in settings["data"]["retouch.yaml"]
    settings["data"]["retouch.yaml"] = settings["data"]["retouch.yaml"].replace(text, other)
    assert _says(faults(planted), said)


def test_a_variable_that_names_no_code_is_refused(sound: list[Manifest]) -> None:
    planted = yaml.safe_load(yaml.safe_dump(sound).replace("proxy:middlewares", "proxy:middleware"))
    assert _says(faults(planted), "serve.deployments.proxy:middleware cannot be imported")


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The pool, with every component that there is."""
    manifests = with_component("gpu-pool", "monitoring", tmp_path_factory.mktemp("monitoring"))
    manifests += [one for one in render(K8S / "overlays" / "gpu-node") if one["kind"] == "Ingress"]
    assert faults(manifests) == []
    return manifests


def plant(manifests: list[Manifest], kind: str, way: str, value: object) -> list[Manifest]:
    """With that value in the first manifest of the kind, or without what is there."""
    planted = copy.deepcopy(manifests)
    place: Any = next(one for one in planted if one["kind"] == kind)
    *steps, last = way.split(".")
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    key: Any = int(last) if isinstance(place, list) else last
    if value is GONE:
        del place[key]
    else:
        place[key] = value
    return planted


def _says(found: list[str], said: str) -> bool:
    return any(re.search(said, fault) for fault in found)
