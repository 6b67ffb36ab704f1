"""Who may reach what, by the meaning of the NetworkPolicies and not by their text."""

import copy

import pytest

from tests.k8s.reachability import INTERNET, Pod, reaches
from tests.k8s.rendering import K8S, OVERLAYS, Manifest, of_kind, pod_templates, render

API, DASHBOARD, GCS, CLIENT, REDIS, TRITON = 8000, 8265, 6379, 10001, 6379, 8002
METRICS = {8080, 44217, 44227}
INSIDE = {DASHBOARD, GCS, CLIENT, 52365, 8076, 9101, 8404, 30000, 31000, 8001, 8010} | METRICS
"""Of Ray, of HAProxy and the replicas behind it, and of Triton."""

RAY = {"ray.io/is-ray-node": "yes", "app.kubernetes.io/name": "kuberay"}
HEAD = Pod({**RAY, "ray.io/node-type": "head", "ray.io/group": "headgroup"})
CPU, GPU = (Pod({**RAY, "ray.io/node-type": "worker", "ray.io/group": group}) for group in ("cpu", "gpu"))
CLEANUP = Pod({**RAY, "ray.io/node-type": "redis-cleanup", "ray.io/group": "headgroup"})
DATABASE = Pod({"app.kubernetes.io/name": "redis"})
BUILD = Pod({"app.kubernetes.io/name": "build-engines"})
OPERATOR = Pod({"app.kubernetes.io/component": "kuberay-operator"}, namespace="kuberay-system")
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
GATEWAY = Pod({"app": "gateway"}, namespace="istio-system")
STRANGERS = (INTERNET, GATEWAY, Pod({**HEAD.labels}, namespace="elsewhere"), Pod({"app": "debug"}), BUILD, DATABASE)


@pytest.fixture(params=OVERLAYS, scope="module")
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(K8S / "overlays" / request.param)


def test_everybody_reaches_the_api_and_nothing_else(manifests: list[Manifest]) -> None:
    for stranger in STRANGERS:
        for pod in (HEAD, CPU, GPU):
            assert reaches(manifests, stranger, pod, API)
            assert not [port for port in sorted(INSIDE) if reaches(manifests, stranger, pod, port)]
        assert not reaches(manifests, stranger, DATABASE, REDIS)
        assert not reaches(manifests, stranger, BUILD, API)


def test_the_pods_of_a_cluster_reach_each_other(manifests: list[Manifest]) -> None:
    for source in (HEAD, CPU, GPU):
        for target in (HEAD, CPU, GPU):
            assert all(reaches(manifests, source, target, port) for port in {API, *INSIDE})


def test_the_operator_reaches_the_dashboard_of_the_head_alone(manifests: list[Manifest]) -> None:
    assert {port for port in INSIDE if reaches(manifests, OPERATOR, HEAD, port)} == {DASHBOARD}
    assert not [port for port in INSIDE if reaches(manifests, OPERATOR, GPU, port)]
    assert reaches(manifests, OPERATOR, CPU, API)  # it asks each pod's proxy how it is
    beside = Pod({"app.kubernetes.io/component": "other"}, namespace=OPERATOR.namespace)
    assert not reaches(manifests, beside, HEAD, DASHBOARD)


def test_monitoring_reaches_metrics_alone(manifests: list[Manifest]) -> None:
    triton = (
        {TRITON} if any(len(one["spec"]["containers"]) > 1 for one in pod_templates(manifests).values()) else set[int]()
    )
    for pod in (HEAD, CPU, GPU):
        assert {port for port in {*INSIDE, TRITON} if reaches(manifests, PROMETHEUS, pod, port)} == METRICS | triton
    assert not reaches(manifests, PROMETHEUS, DATABASE, REDIS)


def test_redis_is_for_the_head_and_for_what_cleans_up_after_it(manifests: list[Manifest]) -> None:
    assert reaches(manifests, HEAD, DATABASE, REDIS)
    assert reaches(manifests, CLEANUP, DATABASE, REDIS)
    assert not reaches(manifests, GPU, DATABASE, REDIS)


@pytest.mark.parametrize("policy", ["api-for-all", "ray-among-itself", "dashboard-for-operator", "redis-for-head"])
def test_without_a_policy_what_it_allows_is_refused(policy: str) -> None:
    whole = render(K8S / "overlays" / "gpu-node")
    without = [one for one in whole if one["metadata"]["name"] != policy]
    ways = [(INTERNET, GPU, API), (GPU, HEAD, GCS), (OPERATOR, HEAD, DASHBOARD), (HEAD, DATABASE, REDIS)]
    assert all(reaches(whole, *way) for way in ways)
    assert [way for way in ways if not reaches(without, *way)]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("api-for-all", {}),
        ("api-for-all", {"ports": [{"port": 8000, "endPort": 9000}]}),
        ("ray-among-itself", {"from": [{"namespaceSelector": {}}]}),
        ("dashboard-for-operator", {"ports": [{"port": 8265}]}),
    ],
)
def test_a_policy_that_is_too_wide_is_seen(name: str, rule: Manifest) -> None:
    manifests = copy.deepcopy(render(K8S / "overlays" / "gpu-node"))
    (policy,) = (one for one in of_kind(manifests, "NetworkPolicy") if one["metadata"]["name"] == name)
    policy["spec"]["ingress"] = [rule]
    with pytest.raises(AssertionError):
        test_everybody_reaches_the_api_and_nothing_else(manifests)
