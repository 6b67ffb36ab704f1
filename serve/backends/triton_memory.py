"""Memory that this process shares with a Triton server on the same machine: the system's, or a CUDA device's."""

import base64
import fcntl
import math
import mmap
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from serve.backends.checks import DTYPES, shape_of
from serve.backends.triton_words import SharedKind
from serve.types import DType, TensorSpec

ALIGNMENT_BYTES = 64
FOLDER = Path("/dev/shm")
"""Where Linux shows the system's shared memory."""
PREFIX = "retouch-"
"""Of the names of regions."""


class SharingRefused(Exception):
    """Shared memory cannot be had, or the server does not take it; messages can be used instead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of a tensor in a region, in bytes."""

    offset: int
    size: int


class Region(Protocol):
    """name: by which requests refer to it. size: in bytes. registration: what the server must know of it."""

    kind: SharedKind
    name: str
    size: int
    registration: Mapping[str, Any]

    def tensor(self, place: Place, dtype: DType, shape: Sequence[int]) -> Tensor:
        """A view, which must be gone before `close`."""
        ...

    def synchronize(self) -> None:
        """Waits until the server would see what was written."""
        ...

    def close(self) -> None: ...


def new_region(size: int, device: torch.device) -> Region:
    """Raises SharingRefused: there is no room, or no such memory here."""
    return CudaRegion(size, device) if device.type == "cuda" else SystemRegion(size)


def remove_orphans() -> list[str]:
    """Unlinks the system's regions of processes that were killed. Answers their names, which servers may still know."""
    return [path.name for path in FOLDER.glob(f"{PREFIX}*") if _remove_unlocked(path)]


def layout_of(tensors: Sequence[TensorSpec], lengths: Mapping[str, int]) -> tuple[dict[str, Place], int]:
    """Where each lies, one behind the other, and the bytes in all."""
    places: dict[str, Place] = {}
    end = 0
    for tensor in tensors:
        size = math.prod(shape_of(tensor, lengths)) * DTYPES[tensor.dtype].itemsize
        places[tensor.name] = Place(end, size)
        end += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return places, end


class SystemRegion:
    """A file in `FOLDER`, locked for as long as this process lives."""

    kind: SharedKind = "System"

    def __init__(self, size: int) -> None:
        self.name, self.size = _new_name(), size
        self.registration: Mapping[str, Any] = {"key": f"/{self.name}", "byte_size": size}
        try:
            self._file = _locked_file(FOLDER / self.name, size)
        except OSError as error:
            raise SharingRefused(f"{FOLDER} has no room for {size} bytes: {error.strerror}") from error
        self._memory = mmap.mmap(self._file, size)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)

    def tensor(self, place: Place, dtype: DType, shape: Sequence[int]) -> Tensor:
        return _view(self._bytes, place, dtype, shape)

    def synchronize(self) -> None:
        """Both processes see the same pages."""

    def close(self) -> None:
        del self._bytes
        self._memory.close()
        (FOLDER / self.name).unlink(missing_ok=True)
        os.close(self._file)


class CudaRegion:
    """Memory of a CUDA device, opened by the server by its handle. Device numbers must be the same in both processes.

    tritonclient allocates it, by way of `cuda-python`: memory of torch's own allocator cannot be handed on alone.
    """

    kind: SharedKind = "Cuda"

    def __init__(self, size: int, device: torch.device) -> None:
        cuda = cuda_shared_memory()
        self.name, self.size, self._device = _new_name(), size, device
        try:
            self._handle = cuda.create_shared_memory_region(self.name, size, device.index)
        except cuda.CudaSharedMemoryException as error:
            raise SharingRefused(f"{device} has no room for {size} bytes of shared memory: {error}") from error
        self._bytes: Tensor = torch.from_dlpack(cuda.as_shared_memory_tensor(self._handle, "UINT8", [size]))
        self.registration: Mapping[str, Any] = {
            "raw_handle": base64.b64decode(cuda.get_raw_handle(self._handle)),
            "device_id": device.index,
            "byte_size": size,
        }

    def tensor(self, place: Place, dtype: DType, shape: Sequence[int]) -> Tensor:
        return _view(self._bytes, place, dtype, shape)

    def synchronize(self) -> None:
        """The server reads on a stream of its own."""
        torch.cuda.current_stream(self._device).synchronize()

    def close(self) -> None:
        """Copies out of it may still be under way on this process's stream."""
        self.synchronize()
        del self._bytes
        cuda_shared_memory().destroy_shared_memory_region(self._handle)
        del self._handle


def cuda_shared_memory() -> Any:
    """tritonclient's module. Raises RuntimeError where `cuda-python` is not installed."""
    from tritonclient.utils import cuda_shared_memory as module  # noqa: PLC0415  # It needs cuda-python.

    return module


def _view(region: Tensor, place: Place, dtype: DType, shape: Sequence[int]) -> Tensor:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    return region[place.offset : place.offset + size].view(DTYPES[dtype]).view(tuple(shape))


def _new_name() -> str:
    return f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex}"


def _locked_file(path: Path, size: int) -> int:
    """The descriptor of a new file, which has its name from when on it is locked.

    It has all of its pages: a container's /dev/shm is 64 MB by default, and writing beyond it would kill the process.
    """
    new = path.with_name(f".{path.name}")
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(file, 0, size)
        new.rename(path)
    except OSError:
        new.unlink()
        os.close(file)
        raise
    return file


def _remove_unlocked(path: Path) -> bool:
    """Whether it was there, and no living process had it locked."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:  # it has gone by now, or belongs to another user
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
