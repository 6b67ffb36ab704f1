"""What a process holds of its machine's or device's memory, and how much it may."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from serve.backends.memory import CpuMemory, CudaMemory, memory_of

MIB = 2**20
GIB = 2**30
PEAKS = """
import json, mmap
from serve.backends.memory import CpuMemory
memory = CpuMemory()
def hold(mib):
    with mmap.mmap(-1, mib * 2**20) as pages:
        for place in range(0, len(pages), 4096):
            pages[place] = 1
        return memory.used_bytes()
before = memory.used_bytes()
held = hold(256)
first, after = memory.peak_bytes(), memory.used_bytes()
memory.reset_peak()
second = memory.peak_bytes()
hold(64)
print(json.dumps([before, held, first, after, second, memory.peak_bytes()]))
"""
"""In a process of its own, whose peak nothing else moves."""

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of a process")


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "mount"


def group(folder: Path, limit: str, used: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def group_of_version_1(folder: Path, limit: int, used: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}\n")


def room_bytes(membership: Path, mount: Path) -> int:
    """Of the capacity, what is not used yet; the process grows a little in between."""
    memory = CpuMemory(membership, mount)
    return memory.capacity_bytes() - memory.used_bytes()


def test_without_control_groups_the_machines_free_memory_is_the_room(membership: Path, mount: Path):
    memory = CpuMemory(membership, mount)

    assert memory.used_bytes() < memory.capacity_bytes() <= psutil.virtual_memory().total
    assert room_bytes(membership, mount) == pytest.approx(psutil.virtual_memory().available, rel=0.1)


@pytest.mark.parametrize("limited", ["", "pods", "pods/one"])
def test_a_limit_of_any_group_above_holds(membership: Path, mount: Path, limited: str):
    membership.write_text("0::/pods/one\n")
    group(mount / "pods" / "one", "max", 10 * MIB)
    group(mount / limited, str(30 * MIB), 10 * MIB)

    assert room_bytes(membership, mount) == pytest.approx(20 * MIB, abs=MIB)


def test_what_others_in_the_group_hold_is_taken_off_but_not_the_file_cache(membership: Path, mount: Path):
    membership.write_text("0::/pod\n")
    group(mount / "pod", str(100 * MIB), 80 * MIB, inactive=30 * MIB)

    assert room_bytes(membership, mount) == pytest.approx(50 * MIB, abs=MIB)


@pytest.mark.parametrize("folder", ["memory/docker/1", "memory"])
def test_a_limit_of_version_1_holds(membership: Path, mount: Path, folder: str):
    membership.write_text("5:memory:/docker/1\n1:name=systemd:/docker/1\n0::/docker/1\n")
    group_of_version_1(mount / folder, 100 * MIB, 80 * MIB, inactive=30 * MIB)

    assert room_bytes(membership, mount) == pytest.approx(50 * MIB, abs=MIB)


def test_a_group_without_a_limit_leaves_the_machines(membership: Path, mount: Path):
    membership.write_text("4:memory:/one\n0::/one\n")
    group(mount / "one", "max", 1)
    group_of_version_1(mount / "memory" / "one", 0x7FFFFFFFFFFFF000, 1)

    assert room_bytes(membership, mount) == pytest.approx(psutil.virtual_memory().available, rel=0.1)


def test_a_group_that_is_over_its_limit_leaves_what_is_held(membership: Path, mount: Path):
    membership.write_text("0::/pod\n")
    group(mount / "pod", str(10 * MIB), 20 * MIB)

    assert room_bytes(membership, mount) == pytest.approx(0, abs=MIB)


@needs_linux
def test_the_peak_stays_until_it_is_reset():
    answer = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, check=True, text=True).stdout
    before, held, first, after, second, last = json.loads(answer)

    assert held - before == pytest.approx(256 * MIB, rel=0.05)
    assert first == pytest.approx(held, abs=4 * MIB)  # the kernel counts in batches
    assert after == pytest.approx(before, abs=16 * MIB)
    assert second == pytest.approx(after, abs=16 * MIB)
    assert last - after == pytest.approx(64 * MIB, abs=16 * MIB)


@pytest.mark.skipif(sys.platform == "win32", reason="its peak is another call")
def test_where_the_kernel_keeps_no_peak_it_is_that_of_the_whole_life(tmp_path: Path):
    memory = CpuMemory(process=tmp_path / "none")

    memory.reset_peak()

    assert memory.peak_bytes() >= CpuMemory().used_bytes()


@needs_linux
def test_memory_that_was_freed_goes_back_to_the_system():
    code = (
        "import torch; from serve.backends.memory import CpuMemory; memory = CpuMemory(); "
        "tensors = [torch.ones(16 * 1024) for _ in range(4000)]; end = torch.ones(16); "
        "tensors.clear(); before = memory.used_bytes(); memory.release(); print(before - memory.used_bytes())"
    )
    freed = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    assert freed > 0


def test_a_device_is_metered_by_its_kind():
    assert isinstance(memory_of(torch.device("cpu")), CpuMemory)
    assert isinstance(memory_of(torch.device("cuda:1")), CudaMemory)


def test_a_cuda_process_may_hold_what_is_free_and_what_it_keeps_already(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30 * GIB)

    assert CudaMemory(torch.device("cuda:0")).capacity_bytes() == 70 * GIB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cuda_tensor_is_used_memory_and_its_peak_stays_until_it_is_reset():
    device = torch.device("cuda:0")
    memory = CudaMemory(device)
    memory.release()
    memory.reset_peak()
    before, capacity = memory.used_bytes(), memory.capacity_bytes()

    tensor = torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    assert memory.used_bytes() - before == 64 * MIB
    assert memory.capacity_bytes() == pytest.approx(capacity, abs=16 * MIB)
    del tensor
    assert memory.used_bytes() == before
    assert memory.peak_bytes() - before == 64 * MIB
    memory.reset_peak()
    memory.release()
    assert memory.peak_bytes() == before
    assert torch.cuda.memory_reserved(device) <= capacity
