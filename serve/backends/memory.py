"""Meters of the memory that components work in: the machine's own, or an NVIDIA device's."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from serve.backends.base import DeviceMemory
from serve.cpus import MEMBERSHIP, MOUNT

KIB = 2**10
_HIGH_WATER_MARK = "VmHWM:"
_RESET_HIGH_WATER_MARK = "5"


def memory_of(device: torch.device) -> DeviceMemory:
    """The meter of a device. One that is neither a CPU nor CUDA's is taken to share the machine's memory."""
    return CudaMemory(device) if device.type == "cuda" else CpuMemory()


class CpuMemory:
    """This process's resident memory, in the machine or in the control groups that limit it.

    The kernel keeps the peak (https://docs.kernel.org/filesystems/proc.html, `VmHWM` and `clear_refs`). Where it does
    not, or does not let a process reset it, the peak is that of the process's whole life: never too low.
    membership, mount, process: where Linux tells of control groups and of this process.
    """

    def __init__(self, membership: Path = MEMBERSHIP, mount: Path = MOUNT, process: Path = Path("/proc/self")) -> None:
        self._membership, self._mount = membership, mount
        self._status, self._clear_refs = process / "status", process / "clear_refs"
        self._process = psutil.Process()

    def capacity_bytes(self) -> int:
        rooms = (psutil.virtual_memory().available, *_group_rooms(self._membership, self._mount))
        return self.used_bytes() + max(0, min(rooms))

    def used_bytes(self) -> int:
        return self._process.memory_info().rss

    def peak_bytes(self) -> int:
        lines = _text(self._status).splitlines()
        marks = (int(line.split()[1]) * KIB for line in lines if line.startswith(_HIGH_WATER_MARK))
        return max(next(marks, None) or self._peak_of_life_bytes(), self.used_bytes())

    def reset_peak(self) -> None:
        try:
            self._clear_refs.write_text(_RESET_HIGH_WATER_MARK, encoding="ascii")
        except OSError:
            return  # another system than Linux, or a container that forbids it

    def release(self) -> None:
        """Freed pages go back to the system. Only glibc keeps so many that it has a call for it."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)

    def _peak_of_life_bytes(self) -> int:
        if sys.platform == "win32":
            return self._process.memory_info().peak_wset
        import resource  # noqa: PLC0415 - Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * KIB


class CudaMemory:
    """What this process's tensors take of one CUDA device; the memory of torch's caching allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def capacity_bytes(self) -> int:
        """What is free, and what the allocator has already: contexts and libraries are taken off as others are."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device)

    def used_bytes(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def release(self) -> None:
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()


def _group_rooms(membership: Path, mount: Path) -> Iterator[int]:
    """Bytes that each control group on the way up still allows, of version 2 and 1: the smallest holds.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    for line in _text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            for folder in (mount, mount / "unified"):
                yield from _rooms(folder, group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            yield from _rooms(
                mount / "memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )


def _rooms(root: Path, group: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Limit minus usage in a group's folder and those above it. In a container only the root may be there.

    reclaimable: the line of `memory.stat` that tells what the kernel drops from its file cache before it refuses. No
    limit is written `max` in version 2, and as a number larger than any machine in version 1.
    """
    place = Path(group.strip("/"))
    for folder in (root / step for step in (place, *place.parents)):
        allowed, used = _text(folder / limit).strip(), _text(folder / usage).strip()
        if allowed.isdecimal() and used.isdecimal():
            stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines())
            yield int(allowed) - int(used) + int(stat.get(reclaimable, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
