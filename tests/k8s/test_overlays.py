"""Every overlay, as kustomize renders it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray import __version__ as ray_version

from tests.k8s import application
from tests.k8s.faults import faults
from tests.k8s.rendering import K8S, OVERLAYS, ROOT, Manifest, of_kind, pod_templates, render, with_component


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_without_fault(overlay: str) -> None:
    assert faults(render(K8S / "overlays" / overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_can_be_monitored(overlay: str, tmp_path: Path) -> None:
    manifests = with_component(overlay, "monitoring", tmp_path)
    assert len(of_kind(manifests, "PodMonitor")) == 3
    assert len(of_kind(manifests, "PrometheusRule")) == 1
    assert faults(manifests) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_value_is_used(overlay: str, tmp_path: Path) -> None:
    copied = _copy(overlay, tmp_path)
    values = yaml.safe_load((copied / "values.yaml").read_text())
    markers: list[str] = []
    values["spec"] = _marked(values["spec"], markers)
    (copied / "values.yaml").write_text(yaml.safe_dump(values))
    rendered = render(copied)
    assert not of_kind(rendered, "Values")
    found = yaml.safe_dump(rendered)
    assert [marker for marker in markers if marker not in found] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_another_configuration_is_another_cluster(overlay: str, tmp_path: Path) -> None:
    copied = _copy(overlay, tmp_path)
    (before,) = of_kind(render(copied), "RayService")
    with (copied / "retouch.yaml").open("a") as file:
        file.write("provenance: none\n")
    (after,) = of_kind(render(copied), "RayService")
    assert after["spec"]["rayClusterConfig"] != before["spec"]["rayClusterConfig"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_traces_are_sent_from_every_pod_of_ray_once_they_have_an_endpoint(overlay: str, tmp_path: Path) -> None:
    copied = _copy(overlay, tmp_path)
    values = (copied / "values.yaml").read_text()
    assert set(_endpoints(render(copied)).values()) == {""}
    (copied / "values.yaml").write_text(values.replace('tracesEndpoint: ""', "tracesEndpoint: http://collector:4318"))
    endpoints = _endpoints(render(copied))
    assert {"head", "cpu"} <= set(endpoints)
    assert set(endpoints.values()) == {"http://collector:4318"}


def test_the_version_of_ray_is_the_one_that_is_tested() -> None:
    (service,) = of_kind(render(K8S / "overlays" / "cpu-demo"), "RayService")
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == ray_version


def test_the_pool_is_upgraded_step_by_step_and_keeps_workers_while_nodes_are_drained() -> None:
    manifests = render(K8S / "overlays" / "gpu-pool")
    (service,) = of_kind(manifests, "RayService")
    assert service["spec"]["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    budgets = of_kind(manifests, "PodDisruptionBudget")
    assert {one["spec"]["selector"]["matchLabels"]["ray.io/group"] for one in budgets} == {"cpu", "gpu"}


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay != "cpu-demo"])
def test_engines_lie_in_a_folder_of_their_gpu_and_tensorrt(overlay: str) -> None:
    """Both are of the workers that run them: the node's label, and the image, by its tag or by the Dockerfile."""
    manifests = render(K8S / "overlays" / overlay)
    (service,), (model,) = of_kind(manifests, "RayService"), application.settings_of(manifests).models
    template = pod_templates([service])["gpu"]["spec"]
    gpu = template["nodeSelector"]["nvidia.com/gpu.product"].removeprefix("NVIDIA-").lower()
    told = re.search(r"-tensorrt-([\d.]+)$", template["containers"][0]["image"])
    default = re.search(r"^ARG TENSORRT=([\d.]+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert default
    major, minor, *_ = (told or default)[1].split(".")
    assert model.model_repository.name == f"{gpu}-tensorrt-{major}.{minor}"
    build = pod_templates(manifests)["build-engines"]["spec"]
    assert build["nodeSelector"] == template["nodeSelector"]
    assert build["containers"][0]["image"] == template["containers"][0]["image"]


def test_triton_serves_the_folder_that_is_built() -> None:
    manifests = render(K8S / "overlays" / "triton")
    (model,) = application.settings_of(manifests).models
    (triton,) = (
        container
        for group in of_kind(manifests, "RayService")[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        for container in group["template"]["spec"]["containers"]
        if container["name"] == "triton"
    )
    assert f"--model-repository={model.model_repository}" in triton["args"]


def test_the_readme_names_what_is_there() -> None:
    text = (K8S / "README.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text.partition("## Before")[0], re.M)) == set(OVERLAYS)
    assert set(re.findall(r"k8s/overlays/([a-z-]+)", text)) <= set(OVERLAYS)
    jobs = {one["metadata"]["name"] for one in of_kind(render(K8S / "overlays" / "gpu-node"), "CronJob")}
    assert set(re.findall(r"--from=cronjob/(\S+)", text)) == jobs
    values = [yaml.safe_load((K8S / "overlays" / name / "values.yaml").read_text()) for name in OVERLAYS]
    assert set(re.findall(r"--tag (\S+)", text)) == {one["spec"]["image"] for one in values}


def test_what_the_build_of_engines_needs_is_applied_by_one_label() -> None:
    labelled = {
        one["kind"]
        for one in render(K8S / "overlays" / "gpu-pool")
        if one["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "engines"
    }
    assert labelled == {"ConfigMap", "CronJob", "PersistentVolumeClaim"}


def _endpoints(manifests: list[Manifest]) -> dict[str, str]:
    """Of the collector, by the kind of Ray's pods, from the ConfigMaps that their first container reads."""
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(manifests, "ConfigMap")}
    found: dict[str, str] = {}
    for name, template in pod_templates(of_kind(manifests, "RayService")).items():
        sources = [source.get("configMapRef") for source in template["spec"]["containers"][0]["envFrom"]]
        found[name] = next(maps[one["name"]]["OTEL_EXPORTER_OTLP_ENDPOINT"] for one in sources if one)
    return found


def _copy(overlay: str, folder: Path) -> Path:
    """The overlay elsewhere, with its ways to base and components as they were."""
    source = K8S / "overlays" / overlay
    for name in ("base", "components"):
        (folder / name).symlink_to(K8S / name)
    copied = folder / "overlays" / overlay
    copied.mkdir(parents=True)
    for file in source.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    return copied


def _marked(value: Any, markers: list[str]) -> Any:
    """Every value in it another one, none of them twice; these are added to `markers`."""
    if isinstance(value, dict):
        return {key: _marked(inner, markers) for key, inner in value.items()}
    if isinstance(value, list):
        return [_marked(inner, markers) for inner in value]
    markers.append(f"{7000 + len(markers)}" if isinstance(value, int) else f"marker-{len(markers)}.")
    return int(markers[-1]) if isinstance(value, int) else markers[-1]
