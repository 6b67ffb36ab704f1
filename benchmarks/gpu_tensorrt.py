"""Whether TensorRT runs on the GPU that is here, and networks as its engines. Of what it needs beyond torch (onnx,
onnxscript, pydantic, and tensorrt or tensorrt_rtx), it says what is missing."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serve.backends.tensorrt_library import load_library, make_logger
from serve.errors import ConfigurationError
from serve.types import Axis, ComponentSpec, DType, TensorSpec

PROBE_WIDTH = 64
PROBE = ComponentSpec(
    name="probe",
    inputs=(TensorSpec("tokens", "bfloat16", ("batch", "tokens", PROBE_WIDTH)),),
    outputs=(TensorSpec("answer", "bfloat16", ("batch", "tokens", PROBE_WIDTH)),),
    axes=(Axis("batch", 1, 1, 4), Axis("tokens", 2, 64, 128)),
)
PROBE_ERROR = 3e-2
"""Relative root mean square that rounding to bfloat16 explains."""
PRECISION: DType = "bfloat16"
EXAMPLE = {"tokens": 16, "reference_tokens": 32, "latent_height": 16, "latent_width": 16}
"""Lengths that a network is exported with; others follow from them. The graph takes any."""

Engine = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class NotThere(Exception):
    """What is to be measured does not work here; the message says why."""


@dataclass(frozen=True, slots=True)
class Library:
    """trt: the module. target: that it builds for, as `PlanOptions.architecture`. said: what works, in words."""

    trt: Any
    target: str
    said: str


def library_here(device: torch.device) -> Library:
    """The library that is installed, once it has built and run a small engine on this device. Raises NotThere."""
    try:
        trt = load_library()
    except ConfigurationError as error:
        raise NotThere(str(error)) from None
    major, minor = torch.cuda.get_device_capability(device)
    named = f"{trt.__name__} {trt.__version__}"
    capability = f"compute capability {major}.{minor}"
    targets = [f"sm_{major}{minor}", ""] if trt.__name__ == "tensorrt_rtx" else [""]
    reasons: list[str] = []
    for target in targets:
        library = Library(trt, target, f"{named} builds for {target or 'the GPU here'} and runs on {capability}")
        try:
            _probe(library, device)
        except NotThere as error:
            reasons.append(f"built for {target or 'the GPU here'}: {error}")
        else:
            return library
    raise NotThere(f"{named} does not run on {capability}; " + "; ".join(reasons))


def engine_of(
    library: Library,
    spec: ComponentSpec,
    module: nn.Module,
    lengths: Mapping[str, int],
    device: torch.device,
    folder: Path,
) -> Engine:
    """The module as an engine with one static profile. lengths: of all axes. Raises NotThere.

    The module is on the device, and is again when this ends; it is exported on the CPU.
    """
    plan = folder / f"{spec.name}.plan"
    try:
        shapes = write_plan(library, spec, module.to("cpu"), lengths, plan)
    finally:
        module.to(device)
    components = _imported("serve.backends.tensorrt_component")
    logger = make_logger(library.trt)
    engine = library.trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise NotThere(f"{library.trt.__name__} cannot load its plan: {logger.told()}")
    try:
        lane = components.Lane(device, recorded=True)
        return components.TensorRtComponent(spec, library.trt, engine, logger, shapes, lane, lambda asked: "")
    except components.Unusable as error:
        raise NotThere(str(error)) from None


def write_plan(library: Library, spec: ComponentSpec, module: nn.Module, lengths: Mapping[str, int], plan: Path) -> Any:
    """The shapes that the plan is for. module: on the CPU. Raises NotThere."""
    tools, exporter = _imported("build_engines.tensorrt"), _imported("build_engines.export")
    drawn = {name: length for name, length in lengths.items() if name != "batch"}
    shapes = _imported("build_engines.profiles").shapes_of(spec, [drawn], [lengths["batch"]])
    onnx = plan.with_suffix(".onnx")
    try:
        exporter.export(spec, module, example_lengths(spec), onnx)
        tools.compile_plan(onnx, plan, spec, tools.PlanOptions(shapes, library.target), lambda phase, share: None)
    except ConfigurationError as error:
        raise NotThere(str(error)) from None
    return shapes


def example_lengths(spec: ComponentSpec) -> dict[str, int]:
    """Of every axis but the batch."""
    lengths = {axis.name: EXAMPLE[axis.name] for axis in spec.axes if axis.name in EXAMPLE}
    for axis in spec.axes:
        if axis.of:
            lengths[axis.name] = int(axis.ratio * sum(lengths[name] for name in axis.of) + axis.plus)
    return lengths


def _probe(library: Library, device: torch.device) -> None:
    """Raises NotThere: the engine cannot be built or loaded, or answers something else than torch."""
    module = nn.Sequential(nn.Linear(PROBE_WIDTH, PROBE_WIDTH), nn.SiLU(), nn.Linear(PROBE_WIDTH, PROBE_WIDTH))
    named = _Probe(module).to(device, torch.bfloat16).eval()
    tokens = torch.randn(1, 64, PROBE_WIDTH, device=device, dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        engine = engine_of(library, PROBE, named, {"batch": 1, "tokens": 64}, device, Path(folder))
        expected = named(tokens).float()
        found = [engine({"tokens": tokens})["answer"].float() for _ in range(3)][-1]
    error = float(((found - expected).square().mean() / expected.square().mean()).sqrt())
    if not error < PROBE_ERROR:
        raise NotThere(f"a small engine is {error:.2g} off torch")


class _Probe(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise NotThere(f"{name} cannot be imported: {error}") from None
