"""Who may reach whom by a namespace's NetworkPolicies, as Kubernetes defines them: a pod that no policy for ingress
selects takes everything, any other what one of them allows.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.k8s.rendering import Manifest, of_kind

NAMESPACE = "retouch"


@dataclass(frozen=True)
class Pod:
    """labels: as its own Kubernetes has them. namespace: empty for what is no pod."""

    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    namespace: str = NAMESPACE


INTERNET = Pod(namespace="")


def reaches(manifests: list[Manifest], source: Pod, target: Pod, port: int) -> bool:
    policies = [
        one["spec"]
        for one in of_kind(manifests, "NetworkPolicy")
        if "Ingress" in one["spec"]["policyTypes"] and _selects(one["spec"]["podSelector"], target.labels)
    ]
    rules = [rule for policy in policies for rule in policy.get("ingress", [])]
    return not policies or any(_takes(rule, source, port) for rule in rules)


def _takes(rule: Manifest, source: Pod, port: int) -> bool:
    ports, peers = rule.get("ports"), rule.get("from")
    by_port = ports is None or any(one["port"] <= port <= one.get("endPort", one["port"]) for one in ports)
    return by_port and (peers is None or any(_is(peer, source) for peer in peers))


def _is(peer: Manifest, source: Pod) -> bool:
    assert peer.keys() <= {"podSelector", "namespaceSelector"}, "ranges of addresses are not read here"
    if not source.namespace:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": source.namespace}):
            return False
    elif source.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), source.labels)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(_fits(one, labels) for one in selector.get("matchExpressions", []))


def _fits(expression: Manifest, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case operator:
            assert operator == "DoesNotExist"
            return value is None
