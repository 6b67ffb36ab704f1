"""Whether this machine has room for a build, told before an hour is spent on it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from serve.backends.base import DeviceMemory
from serve.backends.manifest import CompiledBackend
from serve.errors import ConfigurationError

COPIES_IN_MEMORY: dict[CompiledBackend, float] = {"onnxruntime": 2.2, "openvino": 2.2, "tensorrt": 4.4}
"""Of a component's weights at the most, in the precision that it is built in. TensorRT for RTX 1.7 took 4.3, the rest
of the process included, for a transformer of 1.1 GB (tests/slow, which fails above this)."""
COPIES_ON_DISK: dict[CompiledBackend, float] = {"onnxruntime": 1.2, "openvino": 1.2, "tensorrt": 2.4}
"""The graph, and the plan beside it."""


@dataclass(frozen=True, slots=True)
class Room:
    """That a build needs, in bytes."""

    memory: float
    disk: float


def room_for(backend: CompiledBackend, weight_bytes: int) -> Room:
    """weight_bytes: of the component, in the precision that it is built in."""
    return Room(COPIES_IN_MEMORY[backend] * weight_bytes, COPIES_ON_DISK[backend] * weight_bytes)


def refuse_small_machine(component: str, needed: Room, folder: Path, meter: DeviceMemory) -> None:
    """folder: where the engine is put. meter: of this process' memory, which knows the limits of its control group.
    Raises ConfigurationError."""
    memory, disk = meter.capacity_bytes() - meter.used_bytes(), shutil.disk_usage(folder).free
    for what, wanted, found in (("memory", needed.memory, memory), ("disk", needed.disk, disk)):
        if wanted > found:
            raise ConfigurationError(
                f"the build of {component} needs {wanted / 1e9:.2f} GB of {what}; {found / 1e9:.2f} GB are free"
            )
