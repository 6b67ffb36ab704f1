"""The manifests against KubeRay's own definition of its kinds."""

import hashlib
import re

import pytest

from tests.k8s import kuberay
from tests.k8s.rendering import K8S, OVERLAYS, Manifest, of_kind, render
from tests.k8s.test_faults import KEYS, plant

SHA256 = "0a8fc325e6e22b9231c1f282b309555e2ecf94227ca20a03df3d1d9a403907ab"


def test_the_definition_is_kuberays_own_unchanged() -> None:
    assert hashlib.sha256(kuberay.definition()).hexdigest() == SHA256


def test_it_is_of_the_version_that_the_readme_installs() -> None:
    text = (K8S / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"kuberay-operator --version (\S+)", text) == [kuberay.VERSION]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_knows_every_key(overlay: str) -> None:
    (service,) = of_kind(render(K8S / "overlays" / overlay), "RayService")
    assert [*kuberay.faults(service)] == []


@pytest.mark.parametrize(("way", "value"), [(way, value) for kind, way, value in KEYS if kind == "RayService"])
def test_it_refuses_a_key_that_nobody_knows(pool: list[Manifest], way: str, value: object) -> None:
    (planted,) = of_kind(plant(pool, "RayService", way, value), "RayService")
    key = way.rpartition(".")[2]
    assert any(f"'{key}' was unexpected" in fault for fault in kuberay.faults(planted))


@pytest.fixture(scope="module")
def pool() -> list[Manifest]:
    return render(K8S / "overlays" / "gpu-pool")
