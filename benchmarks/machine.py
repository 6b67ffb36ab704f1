"""Facts of the machine and the packages that a measurement was made with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import psutil

from benchmarks.run import Machine

PACKAGES = ("retouch", "aiohttp", "numpy", "pillow", "torch", "ray", "diffusers")


def machine(load_before: float) -> Machine:
    """This machine now; load_before: its load average when the run started."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        system=platform.platform(),
        load_before=load_before,
        load_after=load_average(),
        versions={"python": platform.python_version(), **_versions()},
    )


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def _cpu() -> str:
    """Its model's name; Linux alone tells it in a file."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    """As installed here, which need not be what a server elsewhere runs."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
