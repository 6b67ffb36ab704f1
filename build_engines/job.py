"""The build of one component: export, compile, compare, and put into its place at once."""

import filecmp
import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from build_engines import on_gpu, tensorrt, triton_config, verify
from build_engines.export import export
from build_engines.inputs import lengths_of, precision_of
from build_engines.parts import Part
from build_engines.room import refuse_small_machine, room_for
from build_engines.triton_config import PYTHON_MODEL, Platform
from serve.backends import fingerprint
from serve.backends.base import Component
from serve.backends.checks import DTYPES
from serve.backends.manifest import (
    ANY_MACHINE,
    ENGINE_FILES,
    MANIFEST,
    CompiledBackend,
    Engine,
    Error,
    Manifest,
    triton_name,
    versions,
)
from serve.backends.memory import memory_of
from serve.backends.shapes import Shapes
from serve.cpus import usable_cpus
from serve.errors import ConfigurationError
from serve.settings import ModelSettings, Precision
from serve.types import ComponentSpec

PACKAGES = ("retouch", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino")
COMPARED_ROWS = 3
TIMING_CACHE = ".timing.cache"
_BUILDING = ".building-"
_CPU = torch.device("cpu")
_MIB = 2**20

Tell = Callable[[str, float | None], None]
"""Is told what is being done, and how much of it is, 0 to 1, where that is known."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to make of a component.

    precision: of the arithmetic; `Part.spec` has that of the tensors. platform: Triton's backend. architecture: of the
    machine that it is for, as manifests tell it. shapes: that a plan is tuned for.
    """

    backend: CompiledBackend
    precision: Precision
    platform: Platform
    architecture: str = ANY_MACHINE
    shapes: Shapes = field(default_factory=Shapes)


@dataclass(frozen=True, slots=True)
class Built:
    """fresh: it was up to date, so that nothing was done. folder: of the component, in the repository."""

    component: str
    fresh: bool
    manifest: Manifest
    folder: Path


@dataclass(frozen=True, slots=True)
class Job:
    """lengths: of the axes but the batch, of small pictures of different shapes, to trace with and to compare at."""

    model: ModelSettings
    part: Part
    target: Target
    lengths: tuple[Mapping[str, int], ...]
    tell: Tell

    @property
    def engine(self) -> Engine:
        return Engine(self.model.model_repository, self.model.id, self.part.spec.name)

    def check(self) -> None:
        """Raises ConfigurationError: there is no room to build it, and it is not up to date."""
        with _disk_faults(self.model.model_repository):
            self.engine.folder.mkdir(parents=True, exist_ok=True)
            if self._up_to_date(self.engine) is None:
                self._refuse_small_machine()

    def run(self) -> Built:
        """Raises ConfigurationError, and leaves the engine that was there."""
        engine = self.engine
        with _disk_faults(self.model.model_repository):
            engine.folder.mkdir(parents=True, exist_ok=True)
            with self._alone(engine.folder):
                manifest = self._up_to_date(engine)
                made = manifest or self._build(engine)
                self._configure(engine.folder)
        return Built(self.part.spec.name, manifest is not None, made, engine.folder)

    @contextmanager
    def _alone(self, folder: Path) -> Generator[None]:
        """Of two builds of a component the second waits, and then finds it up to date."""
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.tell("waiting for another build of it", None)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _up_to_date(self, engine: Engine) -> Manifest | None:
        """What the server would take, and as it is asked for now."""
        target = self.target
        libraries = tensorrt.identity_here() if target.backend == "tensorrt" else {}
        try:
            found = engine.checked(
                target.backend, target.precision, self.part.spec, self.part.weights, target.architecture, libraries
            )
        except ConfigurationError:
            return None
        if (target.platform, target.shapes) != (found.platform, found.shapes):
            return None
        if target.platform == "python" and not filecmp.cmp(PYTHON_MODEL, engine.version / "model.py", shallow=False):
            return None
        return found

    def _build(self, engine: Engine) -> Manifest:
        self._refuse_small_machine()
        for left in engine.folder.glob(f"{_BUILDING}*"):  # by a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=engine.folder))
        try:
            manifest = self._made(folder)
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
            folder.chmod(0o755)  # for a Triton that runs as another user
            _put(folder, engine.version)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return manifest

    def _refuse_small_machine(self) -> None:
        spec, weights = self.part.spec, self.part.weights
        needed = room_for(self.target.backend, fingerprint.numbers_in(weights) * DTYPES[precision_of(spec)].itemsize)
        refuse_small_machine(spec.name, needed, self.engine.folder, memory_of(_CPU))

    def _made(self, folder: Path) -> Manifest:
        """The files, but the manifest itself, in the folder."""
        started_s, meter = time.monotonic(), memory_of(_CPU)
        meter.reset_peak()
        graph = self._graph(folder / "model.onnx")
        if self.target.backend == "tensorrt":
            errors, library = self._compiled(graph, folder)
        else:
            errors, library = self._compared(graph, self.target.backend, self.target.precision), dict[str, str]()
        if self.target.platform == "python":
            shutil.copyfile(PYTHON_MODEL, folder / "model.py")
        return Manifest(
            component=self.part.spec.name,
            backend=self.target.backend,
            precision=self.target.precision,
            weights=fingerprint.of_weights(self.part.weights),
            spec=fingerprint.of_spec(self.part.spec),
            code=self.part.spec.code,
            versions={**versions(*PACKAGES), **library},
            architecture=self.target.architecture,
            platform=self.target.platform,
            opset=graph.opset,
            shapes=self.target.shapes,
            files={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
            errors=errors,
            seconds=time.monotonic() - started_s,
            peak_mib=meter.peak_bytes() / _MIB,
        )

    def _graph(self, path: Path) -> "_Graph":
        spec = self.part.spec
        self.tell("loading", None)
        module = self.part.module().eval().requires_grad_(False)
        self.tell("exporting", None)
        refusals = (tensorrt.refusal,) if self.target.backend == "tensorrt" else ()
        opset = export(spec, module, lengths_of(spec, self.lengths[-1], 2), path, *refusals)
        references = verify.references(spec, module, self.compared_at())
        if self._runs_here() and self.target.shapes.static:
            references += on_gpu.references(spec, module, self.target.shapes.static[:1])
        del module
        gc.collect()
        return _Graph(path, opset, references)

    def compared_at(self) -> list[dict[str, int]]:
        """Lengths of all axes that outputs are compared at: one row, and as many more as the engine takes."""
        rows = min(COMPARED_ROWS, self.target.shapes.rows or COMPARED_ROWS)
        return [lengths_of(self.part.spec, each, batch) for batch, each in zip((1, rows), self.lengths, strict=True)]

    def _compared(self, graph: "_Graph", runtime: CompiledBackend, precision: Precision) -> dict[str, Error]:
        """precision: that the runtime computes in."""
        self.tell("comparing with torch", None)
        component = _opened(graph.path, runtime, self.part.spec, precision)
        return verify.compare(component, graph.references, self.target.precision, _CPU)

    def _compiled(self, graph: "_Graph", folder: Path) -> tuple[dict[str, Error] | str, dict[str, str]]:
        """Where the plan is not for this machine's GPU, the graph that it is made of is compared, before an hour goes
        into it. Answers what the library calls itself as well."""
        plan = folder / ENGINE_FILES["tensorrt"]
        if self._runs_here():
            library = self._compile(graph, plan)
            self.tell("comparing with torch", None)
            target, spec = self.target, self.part.spec
            return on_gpu.compare(plan, spec, target.shapes, target.precision, graph.references), library
        runtime: CompiledBackend = "openvino" if self.target.precision == "bfloat16" else "onnxruntime"
        found = self._compared(graph, runtime, "float32")
        told = ", ".join(f"{name} {error.measured:.2g}" for name, error in found.items())
        unrun = f"the plan was not run, without its GPU; its graph, run by {runtime}, is off by {told}"
        return unrun, self._compile(graph, plan)

    def _compile(self, graph: "_Graph", plan: Path) -> dict[str, str]:
        """The graph's files go, once they are compiled."""
        target, cache = self.target, self.model.model_repository / TIMING_CACHE
        options = tensorrt.PlanOptions(target.shapes, target.architecture, timing_cache=cache)
        library = tensorrt.compile_plan(graph.path, plan, self.part.spec, options, self._told)
        for path in plan.parent.glob(f"{graph.path.name}*"):
            path.unlink()
        return library

    def _runs_here(self) -> bool:
        return self.target.architecture == tensorrt.architecture_here()

    def _told(self, phase: str, share: float) -> None:
        self.tell(f"compiling: {phase.lower()}", share)

    def _configure(self, folder: Path) -> None:
        """Last, so that a Triton that polls the repository finds a model that is complete."""
        name = triton_name(self.model.id, self.part.spec.name)
        target = self.target
        text = triton_config.config_text(name, self.part.spec, target.platform, target.shapes, self.model.threads)
        path = folder / "config.pbtxt"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            new = path.with_name(".config.pbtxt")
            new.write_text(text, encoding="utf-8")
            new.replace(path)


@dataclass(frozen=True, slots=True)
class _Graph:
    path: Path
    opset: int
    references: list[verify.Reference] = field(repr=False)


def _opened(path: Path, runtime: CompiledBackend, spec: ComponentSpec, precision: Precision) -> Component:
    """The graph as the server runs it."""
    if runtime == "openvino":
        from serve.backends import openvino  # noqa: PLC0415  # What is installed, and asked for, is loaded.

        return openvino.opened(path, spec, precision, usable_cpus())
    from serve.backends import onnxruntime  # noqa: PLC0415

    return onnxruntime.opened(path, spec, usable_cpus())


def _put(folder: Path, place: Path) -> None:
    """Two renames: a server that starts between them is told that there is no engine."""
    old = folder.with_name(f"{folder.name}-old")
    if place.exists():
        place.rename(old)
    folder.rename(place)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _disk_faults(repository: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"the engine cannot be written to {repository}: {error.strerror or error}") from error
