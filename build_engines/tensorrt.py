"""ONNX graphs to TensorRT plans, by the Python API that `tensorrt` and `tensorrt_rtx` have in common.

`tensorrt` builds for the GPU of this machine. `tensorrt_rtx`, TensorRT for RTX, needs none: it builds ahead of time for
the compute capabilities that it knows.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from build_engines.inputs import complete, precision_of
from build_engines.plan_writer import Progress, write_plan
from serve.backends.checks import shape_of
from serve.backends.shapes import Shapes
from serve.backends.tensorrt_library import identity, load_library, make_logger
from serve.errors import ConfigurationError
from serve.types import ComponentSpec

RTX = "tensorrt_rtx"
"""It times nothing, and so has no use for a timing cache."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """workspace_bytes: scratch memory that kernels may be chosen with. timing_cache: a file, read and written; what was
    timed once is not timed again. architecture: that TensorRT for RTX builds for, as `sm_89`; empty is the GPU here.
    """

    shapes: Shapes
    architecture: str = ""
    workspace_bytes: int | None = None
    timing_cache: Path | None = None


def compile_plan(
    onnx: Path, plan: Path, spec: ComponentSpec, options: PlanOptions, progress: Progress
) -> dict[str, str]:
    """Write `plan`; what took part in it, by name, as the manifest tells it.

    The network is strongly typed: each tensor has the type that the graph gives it. Each static shape is a profile of
    its own, for which kernels are tuned and a CUDA graph can be recorded; those of the ranges come after. Raises
    ConfigurationError: TensorRT refuses the graph or the architecture, or fails. Raises OSError, and what `progress`
    does.
    """
    trt = load_library()
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network, fault = _parsed(trt, builder, onnx, logger)
    if fault is not None:
        raise ConfigurationError(fault)
    _allow_decomposed_attention(trt, network)
    config = builder.create_builder_config()
    _target(trt, config, options.architecture)
    _allow_recording(trt, config)
    if precision_of(spec) == "float32":
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, it computes with 10 bits of the 23
    for low, best, high in _profiles(spec, options.shapes):
        profile = builder.create_optimization_profile()
        for tensor in spec.inputs:
            profile.set_shape(tensor.name, *(shape_of(tensor, lengths) for lengths in (low, best, high)))
        config.add_optimization_profile(profile)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    cache = TimingCache(config, None if trt.__name__ == RTX else options.timing_cache)
    with plan.open("wb") as file:
        done = write_plan(trt, builder, network, config, file, progress)
    if not done:
        raise ConfigurationError(f"TensorRT cannot compile {spec.name}: {logger.told()}")
    cache.save()
    return identity(trt)


def refusal(onnx: Path) -> str | None:
    """Why TensorRT's parser does not take a graph; None: it does.

    Opset 23's `Attention` it knows from 10.14 on, `RMSNormalization` from 10.15 (CHANGELOG.md of NVIDIA/TensorRT).
    """
    trt = load_library()
    logger = make_logger(trt)
    return _parsed(trt, trt.Builder(logger), onnx, logger)[1]


def identity_here() -> dict[str, str]:
    """What plans are built with here, as a manifest tells it. Raises ConfigurationError."""
    return identity(load_library())


def target_of(architecture: str) -> str:
    """The GPU to build for, as `sm_90`: the one that is named, or this machine's. Raises ConfigurationError: there is
    none, or the library does not build for it."""
    trt = load_library()
    here = architecture_here()
    wanted = architecture or here
    if wanted is None:
        raise ConfigurationError("there is no GPU here to build for; name its kind with --architecture, as in sm_89")
    if trt.__name__ == RTX:
        _capability(trt, wanted)
    elif wanted != here:
        raise ConfigurationError(f"tensorrt builds for the GPU of this machine, {here or 'none'}, not for {wanted}")
    return wanted


def architecture_here() -> str | None:
    """Of this machine's GPU, as `sm_90`."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def _parsed(trt: Any, builder: Any, onnx: Path, logger: Any) -> tuple[Any, str | None]:
    """The network, and what is wrong with the graph."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)):
        return network, None
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    faults = "; ".join(f"{error.node_operator()}: {error.desc()}" for error in errors)
    return network, f"TensorRT {trt.__version__} cannot read {onnx}: {faults or logger.told()}"


def _profiles(
    spec: ComponentSpec, shapes: Shapes
) -> Iterator[tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]]:
    """Lowest, best and highest lengths of each; best in a range is what matters most, the first static shape, or what
    comes nearest to it."""
    for lengths in shapes.static:
        yield lengths, lengths, lengths
    for one in shapes.ranges:
        best = shapes.static[0] if shapes.static else one.high
        yield one.low, complete(spec, {name: min(best[name], high) for name, high in one.high.items()}), one.high


def _capability(trt: Any, architecture: str) -> Any:
    capability = getattr(trt.ComputeCapability, architecture.replace("_", "").upper(), None)
    if capability is None:
        names = ", ".join(name for name in dir(trt.ComputeCapability) if name.startswith("SM"))
        raise ConfigurationError(f"{trt.__name__} cannot build for {architecture}; it builds for {names}")
    return capability


def _target(trt: Any, config: Any, architecture: str) -> None:
    """Only TensorRT for RTX can be told another GPU than the one that is there."""
    if architecture and trt.__name__ == RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, architecture), 0)


def _allow_recording(trt: Any, config: Any) -> None:
    """Where the library has a flag for it: no memory is allocated while an engine runs, which a CUDA graph could not
    record."""
    flag = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if flag is not None:
        config.set_flag(flag)


def _allow_decomposed_attention(trt: Any, network: Any) -> None:
    """Attention that no dedicated kernel knows, as the VAE's single head of 512, is computed by several."""
    if not hasattr(trt.LayerType, "ATTENTION_INPUT"):
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # as the bindings give every layer the base class
            layer.attention.decomposable = True


class TimingCache:
    """What earlier builds have timed. It saves time and nothing else, so no build fails because of it."""

    def __init__(self, config: Any, path: Path | None) -> None:
        self._config, self._path = config, path
        if path is not None:
            known = _content(path)
            cache = config.create_timing_cache(known) if known else None
            # One of another library or GPU is not taken.
            if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
                config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def save(self) -> None:
        """Under a name of its own first: several builds may end at once."""
        cache = self._config.get_timing_cache() if self._path is not None else None
        if cache is None or self._path is None:
            return
        with suppress(OSError):
            file, name = tempfile.mkstemp(prefix=self._path.name, dir=self._path.parent)
            try:
                with open(file, "wb") as written:
                    written.write(memoryview(cache.serialize()))
                Path(name).replace(self._path)
            finally:
                Path(name).unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
