"""GPUs: what the models ask for, what is there, and whether torch can use it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve.cli.doctor.executors import executors, on_cuda
from serve.cli.doctor.findings import Finding, ok, refused, warning, wrong
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.settings import ModelSettings, Settings

TOOL = "nvidia-smi"
TOOL_S = 10.0
FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "memory.free")
"""As the tool knows them, https://docs.nvidia.com/deploy/nvidia-smi/; memory in MiB."""
CLUSTER = "RAY_ADDRESS"
"""The variable by which programs on a node of a Ray cluster find it, as KubeRay sets it in every pod of one."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """As the driver tells it: texts, since it has none for some ("[N/A]"). capability: "9.0"."""

    name: str
    driver: str
    capability: str
    total_mib: str
    free_mib: str


def gpus(settings: "Settings") -> Iterator[Finding]:
    from serve.settings import gpus_wanted, refuse_missing_gpus  # noqa: PLC0415

    wanted = gpus_wanted(settings)
    try:
        there = visible()
    except OSError as error:
        advice = "mend the driver: after an update of it, a restart of the machine mostly helps"
        yield (wrong if wanted else warning)("gpus", str(error), advice)
        return
    asked = f"the models ask for {wanted:g}" if wanted else "no model asks for one"
    if CLUSTER in os.environ:
        yield ok("gpus", f"{asked} in all of the cluster, of which `ray status` tells; {len(there)} found here")
    else:
        try:
            refuse_missing_gpus(settings, len(there))
        except ConfigurationError as error:
            yield wrong("gpus", str(error).replace("; ", ", and "), _missing())
            return
        yield _range(settings, len(there)) or ok("gpus", f"{asked}; {len(there)} found")
    for index, gpu in enumerate(there):
        yield ok(f"gpu {index}", f"{gpu.name}, {gpu.free_mib} of {gpu.total_mib} MiB free, driver {gpu.driver}")


def torch_on_gpus(settings: "Settings") -> Iterator[Finding]:
    """Asked of the driver, without work on the device: a server may fill it."""
    for model in settings.models:
        devices = sorted({own.device for own in executors(model) if on_cuda(own)})
        for device in devices:
            yield _usable(model, device)


def visible() -> list[Gpu]:
    """Those that Ray would find. Raises OSError: the driver's tool is there and fails."""
    if shutil.which(TOOL) is None:
        return []
    command = [TOOL, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TOOL_S)
    except subprocess.TimeoutExpired:
        raise OSError(f"{TOOL} does not answer within {TOOL_S:g} s") from None
    if ended.returncode:
        told = next(iter((ended.stdout + ended.stderr).strip().splitlines()), f"exit status {ended.returncode}")
        raise OSError(f"{TOOL} fails: {told}")
    found = [Gpu(*(word.strip() for word in line.split(","))) for line in ended.stdout.splitlines() if line.strip()]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if shown is None else found[: len([word for word in shown.split(",") if word not in ("", "-1")])]


def has_kernels(built: Sequence[str], capability: str) -> bool:
    """Whether a torch has kernels for a chip of that compute capability ("9.0"). built: as torch lists them, where
    machine code (`sm_80`) runs on later chips of its generation, and `compute_80` is compiled by the driver.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capability
    """
    major, _, minor = capability.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return True  # the driver does not tell
    chip = int(major), int(minor)
    for kind, generation, step in re.findall(r"(sm|compute)_(\d+)(\d)\b", " ".join(built)):
        code = int(generation), int(step)
        if code <= chip and (kind == "compute" or code[0] == chip[0]):
            return True
    return f"sm_{major}{minor}a" in built


def _range(settings: "Settings", there: int) -> Finding | None:
    most = sum(model.replicas.max * model.num_gpus for model in settings.models)
    if most <= there:
        return None
    found = f"the models' replicas may come to ask for {most:g}, and {there} are there"
    return warning("gpus", found, "lower the replicas' max, unless other machines of the cluster have them")


def _missing() -> str:
    if shutil.which(TOOL) is None:
        return f"start the container with its GPUs (docker run --gpus all), or install the driver: there is no {TOOL}"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return f"let more be seen: CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    return "lower num_gpus or replicas, or use a machine that has them"


def _usable(model: "ModelSettings", device: str) -> Finding:
    import torch  # noqa: PLC0415

    from serve.backends.torch import open_device  # noqa: PLC0415

    check = f"torch on {device} for {model.id}"
    build = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        try:
            open_device(device)
        except ConfigurationError as error:
            told = (
                "this torch is made for CPUs" if torch.version.cuda is None else f"it is made for {torch.version.cuda}"
            )
            return refused(check, error, f"install a torch for the driver's version of CUDA ({build}: {told})")
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        return wrong(
            check, f"there are {torch.cuda.device_count()} GPUs", "count from 0: Ray shows a replica only its own"
        )
    capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
    if not has_kernels(torch.cuda.get_arch_list(), capability):
        found = f"{build} has no kernels for compute capability {capability}"
        return wrong(check, found, "install a torch that names this GPU's generation among its own")
    return ok(check, f"{build}, CUDA {torch.version.cuda}, compute capability {capability}")
