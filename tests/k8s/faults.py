"""All that is wrong with manifests that kustomize has rendered."""

from tests.k8s import application, kinds, ports, promises, references
from tests.k8s.rendering import Manifest

FORM = (kinds.faults, application.unreadable)
MEANING = (references.faults, ports.faults, promises.faults, application.faults)
"""Which is looked for where the form is right."""


def faults(manifests: list[Manifest]) -> list[str]:
    found = [fault for check in FORM for fault in check(manifests)]
    return found or [fault for check in MEANING for fault in check(manifests)]
