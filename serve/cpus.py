"""What the CPU is, and how many this process may use: those of its affinity, or fewer where a control group's quota
allows less.

`os.cpu_count()` counts the machine's, which in a container are often many more.
https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
https://docs.kernel.org/scheduler/sched-bwc.html
"""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def usable_cpus(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int:
    """At least 1; a quota of part of a CPU counts as a whole one.

    membership: lists the groups of this process. mount: where the groups lie.
    """
    quota = min(_quotas(membership, mount), default=math.inf)
    return max(1, math.ceil(min(_affinity(), quota)))


def cpu_name() -> str:
    """As its maker calls it. Linux tells it in a line `model name : ...`, though not for every architecture."""
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(membership: Path, mount: Path) -> Iterator[float]:
    """CPUs that each group on the way up allows, of version 2 and 1: the smallest holds."""
    for line in _text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            for folder in (mount, mount / "unified"):
                for place in _upwards(folder, group):
                    yield from _quota(_text(place / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in (mount / "cpu", mount / controllers):
                for place in _upwards(folder, group):
                    quota, period = (_text(place / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                    yield from _quota(f"{quota} {period}")


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """A group's folder and those above it. In a container the path may be the host's and only the root be there."""
    place = Path(group.strip("/"))
    for step in (place, *place.parents):
        yield root / step


def _quota(text: str) -> Iterator[float]:
    """`max 100000` and `-1 100000` set none; so does what cannot be read."""
    try:
        quota, period = (int(word) for word in text.split())
    except ValueError:
        return
    if quota > 0 and period > 0:
        yield quota / period


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
