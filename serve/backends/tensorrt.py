"""TensorRT engines, run in this process by `tensorrt` or `tensorrt_rtx`, whichever is installed."""

import os
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch

from serve.backends.base import Build, DeviceMemory, device_faults
from serve.backends.checks import DTYPES
from serve.backends.manifest import Engine
from serve.backends.memory import memory_of
from serve.backends.shapes import Advice, Shapes
from serve.backends.tensorrt_component import Lane, TensorRtComponent, Unusable
from serve.backends.tensorrt_library import identity, load_library, make_logger
from serve.backends.torch import open_device
from serve.errors import ConfigurationError
from serve.settings import ModelSettings
from serve.types import ComponentSpec

CHUNK_BYTES = 64 * 2**20
"""Of a plan, read into this process' memory at a time on their way to the device."""


class TensorRtBackend:
    """repository, model: where the engines lie, and of which model. device: one of CUDA. precision: that the engines
    compute in. cuda_graphs: shapes that an engine was built for run as graphs.

    Raises ConfigurationError: the library or the device is not there.
    """

    batch_invariant = False
    """Each batch size has a profile of its own, with kernels of its own."""

    def __init__(self, repository: Path, model: str, device: str, precision: str, *, cuda_graphs: bool = True) -> None:
        self.device = open_device(device)
        if self.device.type != "cuda":
            raise ConfigurationError(f"the backend tensorrt needs a CUDA device; found device {device!r}")
        self._trt = load_library()
        self.dtype = DTYPES[precision]
        self.memory: DeviceMemory = memory_of(self.device)
        library = f"{self._trt.__name__} {self._trt.__version__}"
        ways = [library, *(["CUDA graphs"] if cuda_graphs else []), torch.cuda.get_device_name(self.device)]
        self.name = ", ".join(ways)
        self._repository, self._model, self._precision = repository, model, precision
        self._architecture = architecture_of(self.device)
        self._lane = Lane(self.device, recorded=cuda_graphs)
        self._logger = make_logger(self._trt)
        with torch.cuda.device(self.device):
            self._runtime = self._trt.Runtime(self._logger)

    @classmethod
    def from_settings(cls, model: ModelSettings) -> Self:
        return cls(model.model_repository, model.id, model.device, model.precision, cuda_graphs=model.cuda_graphs)

    def close(self) -> None:
        """All goes with the process."""

    def check(self) -> None:
        """A fault of the device shows in a call."""

    def load(self, spec: ComponentSpec, module: Build, weights: Path) -> TensorRtComponent:
        """The weights are those of the plan; `module` is not called, and `weights` only compared with them."""
        engine = Engine(self._repository, self._model, spec.name)
        manifest = engine.checked(
            "tensorrt", self._precision, spec, weights, self._architecture, libraries=identity(self._trt)
        )
        try:
            advice = partial(engine.advice, "tensorrt", self._precision)
            return self.opened(engine.file("tensorrt"), spec, manifest.shapes, advice)
        except Unusable as error:
            raise engine.broken("tensorrt", self._precision, error) from None

    def opened(self, path: Path, spec: ComponentSpec, shapes: Shapes, advice: Advice) -> TensorRtComponent:
        """A plan. shapes: that it was built for. advice: how to build another. Raises Unusable."""
        with torch.cuda.device(self.device), device_faults(spec.name):
            return TensorRtComponent(spec, self._trt, self._plan(path), self._logger, shapes, self._lane, advice)

    def _plan(self, path: Path) -> Any:
        """The library's engine, on the device. Raises Unusable."""
        with path.open("rb") as file:
            source = make_reader(self._trt, Pieces(file)) if hasattr(self._trt, "IStreamReaderV2") else file.read()
            plan = self._runtime.deserialize_cuda_engine(source)
        if plan is None:
            raise Unusable(self._logger.told())
        return plan


def architecture_of(device: torch.device) -> str:
    """Its compute capability, as manifests write it: `sm_90`."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


class Pieces:
    """A plan, read as the library asks for it: one of 24 GB need not be held in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """At most so many bytes; the library asks for the rest."""
        return self._file.read(min(size, CHUNK_BYTES))

    def seek(self, offset: int, whence: int) -> None:
        """whence: as of files. From the end the library counts backwards."""
        self._file.seek(-abs(offset) if whence == os.SEEK_END else offset, whence)


def make_reader(trt: Any, pieces: Pieces) -> Any:
    """The library's own kind of reader; it needs a driver."""
    places = {trt.SeekPosition.SET: os.SEEK_SET, trt.SeekPosition.CUR: os.SEEK_CUR, trt.SeekPosition.END: os.SEEK_END}

    class Reader(trt.IStreamReaderV2):
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)

        def read(self, num_bytes: int, stream: int) -> bytes:
            return pieces.read(num_bytes)

        def seek(self, offset: int, where: Any) -> bool:
            pieces.seek(offset, places[where])
            return True

    return Reader()
