"""The kinds that operators add to Kubernetes, as far as the manifests use them: every other key is refused.

KubeRay 1.7 (https://ray-project.github.io/kuberay/reference/api/) and the Prometheus operator. What stands here as Any
is a built-in type, which `kinds` holds to Kubernetes' own schema. A RayService must pass KubeRay's own definition, too;
what stands here is the part of it that the manifests use, and what it leaves open and they must not.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=41)]
Count = Annotated[int, Field(ge=0)]
Template = dict[str, Any]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ClusterUpgradeOptions(Strict):
    maxSurgePercent: Annotated[int, Field(ge=0, le=100)] = 100
    stepSizePercent: Annotated[int, Field(ge=0, le=100)]
    intervalSeconds: Annotated[int, Field(gt=0)]
    gatewayClassName: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _a_step_is_within_the_surge(self) -> Self:
        if self.stepSizePercent > self.maxSurgePercent:
            raise ValueError("stepSizePercent is above maxSurgePercent")
        return self


class UpgradeStrategy(Strict):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]
    clusterUpgradeOptions: ClusterUpgradeOptions | None = None

    @model_validator(mode="after")
    def _steps_are_told(self) -> Self:
        if (self.type == "NewClusterWithIncrementalUpgrade") != (self.clusterUpgradeOptions is not None):
            raise ValueError("clusterUpgradeOptions belong to NewClusterWithIncrementalUpgrade, and it needs them")
        return self


class AutoscalerOptions(Strict):
    version: Literal["v2"]
    idleTimeoutSeconds: Count
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] = "Default"
    resources: Any = None
    securityContext: Any = None
    env: Any = None
    envFrom: Any = None
    volumeMounts: Any = None


class AuthOptions(Strict):
    mode: Literal["token"]
    secretName: str = ""


class Credential(Strict):
    valueFrom: Any


class GcsFaultToleranceOptions(Strict):
    redisAddress: str
    redisUsername: Credential | None = None
    redisPassword: Credential
    externalStorageNamespace: str = ""


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: Template


class WorkerGroup(Strict):
    groupName: Name
    minReplicas: Count
    maxReplicas: Count
    idleTimeoutSeconds: Count = 0
    rayStartParams: dict[str, str]
    template: Template

    @model_validator(mode="after")
    def _the_most_is_at_least_the_least(self) -> Self:
        if self.minReplicas > self.maxReplicas:
            raise ValueError("minReplicas is above maxReplicas")
        return self


class RayCluster(Strict):
    rayVersion: str
    authOptions: AuthOptions
    gcsFaultToleranceOptions: GcsFaultToleranceOptions
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]

    @model_validator(mode="after")
    def _autoscaling_restarts_pods_itself(self) -> Self:
        templates = [self.headGroupSpec.template, *(group.template for group in self.workerGroupSpecs)]
        if any(template["spec"].get("restartPolicy", "Never") != "Never" for template in templates):
            raise ValueError("restartPolicy must be Never, or left out")
        return self


class RayServiceSpec(Strict):
    upgradeStrategy: UpgradeStrategy
    rayClusterDeletionDelaySeconds: Count
    excludeHeadPodFromServeSvc: bool
    serveConfigV2: str
    rayClusterConfig: RayCluster


class Metadata(Strict):
    name: Name
    namespace: str
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    annotations: dict[str, str] = Field(default_factory=dict[str, str])


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec


class Relabeling(Strict):
    sourceLabels: list[str]
    targetLabel: str


class PodMetricsEndpoint(Strict):
    port: str
    path: str = "/metrics"
    relabelings: list[Relabeling]


class LabelSelector(Strict):
    matchLabels: dict[str, str]


class PodMonitorSpec(Strict):
    selector: LabelSelector
    podMetricsEndpoints: list[PodMetricsEndpoint]


class PodMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class AlertLabels(Strict):
    severity: Literal["page", "ticket"]


class AlertAnnotations(Strict):
    summary: Annotated[str, Field(pattern=r"\.$")]
    description: Annotated[str, Field(pattern=r"\.$")]
    runbook_url: Annotated[str, Field(pattern=r"^k8s/README\.md#[a-z0-9-]+$")]


class AlertRule(Strict):
    alert: Annotated[str, Field(pattern=r"^Retouch[A-Z][A-Za-z]+$")]
    expr: str
    for_: Annotated[str, Field(alias="for", pattern=r"^[1-9][0-9]*[smh]$")]
    labels: AlertLabels
    annotations: AlertAnnotations


class RuleGroup(Strict):
    name: Name
    rules: list[AlertRule]


class PrometheusRuleSpec(Strict):
    groups: list[RuleGroup]


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


CUSTOM_KINDS: dict[str, type[Strict]] = {
    "RayService": RayService,
    "PodMonitor": PodMonitor,
    "PrometheusRule": PrometheusRule,
}
