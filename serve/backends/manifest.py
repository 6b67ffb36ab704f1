"""Compiled components on disk: where each one lies, what it was built from, and whether it fits what is asked for.

A component lies in a Triton model repository, `<repository>/<model>.<component>/1/`, beside its `manifest.json`.
"""

import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from serve.backends import fingerprint
from serve.backends.shapes import Asked, Shapes
from serve.errors import ConfigurationError
from serve.types import ComponentSpec

MANIFEST = "manifest.json"
VERSION = "1"
"""Of the model, as Triton counts; there is one."""
CompiledBackend = Literal["onnxruntime", "openvino", "tensorrt"]
ENGINE_FILES: dict[CompiledBackend, str] = {
    "onnxruntime": "model.onnx",
    "openvino": "model.onnx",
    "tensorrt": "model.plan",
}
"""What a backend loads, by the names that Triton expects."""
ANY_MACHINE = "any"
"""The architecture of what runs everywhere."""
MODEL_PACKAGES = ("diffusers", "transformers")
"""Their code computes what a component's own does not."""
FORMAT = 1
WITH_CONFIG = ", with the server's --config if it has one"
"""Ends a command of an advice, which is given where the file's name is not known."""


class Error(BaseModel):
    """How far an output is from torch's: root mean square of the difference over that of the output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measured: float
    tolerated: float


class Manifest(BaseModel):
    """What an engine was built from and with.

    weights, spec, code: fingerprints (`serve.backends.fingerprint`). versions: of the libraries that took part.
    architecture: of the machine it is for: `ANY_MACHINE`, or a compute capability as `sm_90`. platform: Triton's
    backend that serves it. opset: of the ONNX graph. files: sizes in bytes by name. errors: of each output against
    torch, or why it was not compared. seconds, peak_mib: that the build took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    component: str
    backend: CompiledBackend
    precision: str
    weights: str
    spec: str
    code: str
    versions: dict[str, str]
    architecture: str
    platform: str
    opset: int
    shapes: Shapes
    files: dict[str, int]
    errors: dict[str, Error] | str
    seconds: float
    peak_mib: float


class Engine:
    """A component's place in a repository. model: its id in the configuration."""

    def __init__(self, repository: Path, model: str, component: str) -> None:
        self.folder = repository / triton_name(model, component)
        self.version = self.folder / VERSION
        self._model, self._component = model, component

    def file(self, backend: CompiledBackend) -> Path:
        return self.version / ENGINE_FILES[backend]

    def manifest(self) -> Manifest:
        """Raises ConfigurationError: there is none, or it cannot be read."""
        path = self.version / MANIFEST
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise ConfigurationError(f"{self._named()} is not built: there is no {path}") from None
        except (OSError, ValidationError) as error:
            reason = next(iter(str(error).splitlines()))
            raise ConfigurationError(f"{self._named()} has a manifest that cannot be read ({reason})") from None

    def checked(
        self,
        backend: CompiledBackend,
        precision: str,
        spec: ComponentSpec,
        weights: Path,
        architecture: str = "",
        libraries: Mapping[str, str] = MappingProxyType({}),
    ) -> Manifest:
        """The manifest of an engine that does what is asked of it.

        precision: that it computes in. weights: the folder that it must have been built from. architecture: of the
        device here, empty where that does not matter. libraries: entries of `versions` that must be the same here, as
        those of MODEL_PACKAGES must.

        Raises ConfigurationError that names what differs and the command that builds the engine anew.
        """
        try:
            manifest = self.manifest()
            self._compare("backend", manifest.backend, backend)
            self._compare("precision", manifest.precision, precision)
            self._compare("spec", manifest.spec, fingerprint.of_spec(spec))
            self._compare("code", manifest.code, spec.code)
            self._compare("weights", manifest.weights, fingerprint.of_weights(weights))
            if architecture:
                self._compare("architecture", manifest.architecture, architecture)
            for name, wanted in {**versions(*MODEL_PACKAGES), **libraries}.items():
                self._compare(name, manifest.versions.get(name, "not told"), wanted)
            for name, size in manifest.files.items():
                self._compare(f"size of {name}", _size(self.version / name), size)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; {self.advice(backend, precision)}") from None
        return manifest

    def broken(self, backend: CompiledBackend, precision: str, reason: object) -> ConfigurationError:
        """To raise where an engine's file does not load."""
        said = next(iter(str(reason).splitlines()), type(reason).__name__)
        return ConfigurationError(
            f"{self._named()} cannot be loaded from {self.file(backend)} ({said}); {self.advice(backend, precision)}"
        )

    def advice(self, backend: CompiledBackend, precision: str, asked: Asked | None = None) -> str:
        """How to build the engine: for what is asked, or as the one that is there was."""
        words = ["retouch", "build-engines", "--model", self._model, "--components", self._component]
        words += ["--backend", backend, "--precision", precision]
        there = self._of(backend)
        words += (asked or (there.shapes.asked if there else Asked())).words()
        words += ["--python"] if there and there.platform == "python" else []
        return f"build it: {shlex.join(words)}{WITH_CONFIG}"

    def _of(self, backend: CompiledBackend) -> Manifest | None:
        """The manifest, where it can be read and is of an engine for that backend."""
        with suppress(ConfigurationError):
            found = self.manifest()
            return found if found.backend == backend else None
        return None

    def _compare(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise ConfigurationError(f"{self._named()} does not fit: its {what} is {found}, wanted is {wanted}")

    def _named(self) -> str:
        return f"the engine of {self._model}'s {self._component}"


def triton_name(model: str, component: str) -> str:
    """What a component is called in a Triton model repository."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}.{component}"


def behind_triton(device: str, precision: str) -> CompiledBackend:
    """What a Triton server runs for tensors of that device and precision: plans on a GPU, ONNX graphs on a CPU, where
    no runtime takes bfloat16."""
    return "onnxruntime" if device == "cpu" and precision != "bfloat16" else "tensorrt"


def _size(path: Path) -> int | str:
    try:
        return path.stat().st_size
    except OSError:
        return "that of no file"


def versions(*names: str) -> dict[str, str]:
    """Of installed packages, by their names in the package index."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
