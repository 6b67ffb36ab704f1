"""The CPUs that a process may use: what its affinity and the quotas of its control groups leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.cpus import usable_cpus

AFFINITY = len(os.sched_getaffinity(0))
HALF_A_CPU = "50000 100000"


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "mount"


def quota(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{text}\n")


def quota_of_version_1(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(("quota", "period"), text.split(), strict=True):
        (folder / f"cpu.cfs_{name}_us").write_text(f"{value}\n")


def test_without_control_groups_the_affinity_counts(membership: Path, mount: Path):
    assert usable_cpus(membership, mount) == AFFINITY


@pytest.mark.skipif(AFFINITY < 2, reason="one CPU is the least there is")
def test_a_process_that_is_bound_to_one_cpu_may_use_one():
    code = (
        "import os; from serve.cpus import usable_cpus; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cpus())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", AFFINITY), (HALF_A_CPU, 1), ("99900000 100000", AFFINITY)]
)
def test_a_quota_allows_fewer_cpus_and_at_least_one_but_never_more(
    membership: Path, mount: Path, text: str, expected: int
):
    membership.write_text("0::/pod\n")
    quota(mount / "pod", text)
    assert usable_cpus(membership, mount) == expected


@pytest.mark.skipif(AFFINITY < 2, reason="one CPU is the least there is")
def test_part_of_a_cpu_counts_as_a_whole_one(membership: Path, mount: Path):
    membership.write_text("0::/pod\n")
    quota(mount / "pod", "100001 100000")
    assert usable_cpus(membership, mount) == 2


@pytest.mark.parametrize("limited", ["", "pods", "pods/one"])
def test_a_quota_of_any_group_above_holds(membership: Path, mount: Path, limited: str):
    membership.write_text("0::/pods/one\n")
    quota(mount / "pods" / "one", "max 100000")
    quota(mount / limited, HALF_A_CPU)
    assert usable_cpus(membership, mount) == 1


def test_where_a_container_hides_its_path_the_root_that_it_sees_holds(membership: Path, mount: Path):
    membership.write_text("0::/kubepods.slice/pod1/container2\n")
    quota(mount, HALF_A_CPU)
    assert usable_cpus(membership, mount) == 1


@pytest.mark.parametrize("folder", ["cpu/docker/1", "cpu,cpuacct/docker/1", "cpu"])
def test_a_quota_of_version_1_holds(membership: Path, mount: Path, folder: str):
    membership.write_text("5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n0::/docker/1\n")
    quota_of_version_1(mount / folder, HALF_A_CPU)
    assert usable_cpus(membership, mount) == 1


def test_version_1_tells_that_there_is_no_quota_by_minus_one(membership: Path, mount: Path):
    membership.write_text("4:cpu,cpuacct:/\n")
    quota_of_version_1(mount / "cpu", "-1 100000")
    assert usable_cpus(membership, mount) == AFFINITY


@pytest.mark.parametrize("text", ["", "x", "50000", "0 0", "50000 0"])
def test_a_quota_that_makes_no_sense_limits_nothing(membership: Path, mount: Path, text: str):
    membership.write_text("0::/\n")
    quota(mount, text)
    assert usable_cpus(membership, mount) == AFFINITY
