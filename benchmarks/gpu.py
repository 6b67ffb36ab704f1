"""How fast one GPU runs networks of the sizes that people serve, against the fastest that it multiplies matrices.

`python -m benchmarks.gpu` measures in one run, within `--minutes`, and writes `gpu.json` and `gpu.md` into `--output`:
a large bfloat16 matrix product; FLUX.1 Kontext's denoiser with one reference of the picture's size, and its
autoencoder; a denoiser of Stable Diffusion 1.5's size. All have random weights and take random numbers, so no
checkpoint is needed: torch with CUDA, diffusers with transformers, numpy and this repository are enough. What does not
fit into the time or the memory is skipped, and says so.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_report import Budget, Report, Row, Timing, Way, markdown, tflop_of, timing_of, write
from benchmarks.gpu_tensorrt import Library, NotThere, engine_of, library_here
from benchmarks.real_models import (
    UNET_DOWNSCALE,
    kontext_autoencoder,
    kontext_denoiser,
    kontext_dimensions,
    unet_denoiser,
    unet_spec,
)
from build_engines.inputs import random_inputs
from serve.backends import compiler
from serve.backends.cuda_graphs import CudaGraphs
from serve.errors import ConfigurationError
from serve.families.flux_kontext_components import (
    Dimensions,
    denoiser_spec,
    vae_decoder_spec,
    vae_encoder_spec,
)
from serve.types import ComponentSpec, DType

PRECISION: DType = "bfloat16"
MATRIX_SIDE = 8192
PIXELS = (1024, 512, 256)
BATCHES = (1, 2, 4, 8)
WARM_UPS = 3
"""Calls before the clock runs: the first two make a graph, the third replays it."""
MAX_REPEATS = 30
MAX_TIMED_S = 4.0
"""Of one measurement; fewer repeats where they would pass it."""
TIMED_REPEATS = 5
"""The fewest."""
ASSUMED_SHARE = 0.3
"""Of the ceiling, to foresee how long a measurement takes."""
EAGER: Way = "eager"
GRAPHS: Way = "CUDA graphs"
COMPILED: Way = "torch.compile, CUDA graphs"
TENSORRT: Way = "TensorRT, CUDA graphs"
UNRECORDED: Mapping[Way, Way] = {GRAPHS: EAGER, COMPILED: "torch.compile"}
"""What runs where a network cannot be recorded as a graph."""
PREPARING_S: Mapping[Way, float] = {EAGER: 2.0, GRAPHS: 4.0, COMPILED: 45.0, TENSORRT: 60.0}
"""What each way takes before a network runs at a new size, foreseen; an engine takes longer by its weights."""
ENGINE_S_PER_GB = 30.0
GIB = 2**30

Run = Callable[[Mapping[str, Tensor]], object]
Recordable = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Network:
    """make: on a device. lengths: of the axes but the batch, where a picture of so many pixels a side is drawn."""

    name: str
    spec: ComponentSpec
    make: Callable[[torch.device], nn.Module]
    lengths: Callable[[int], Mapping[str, int]]

    def tflop(self, pixels: int, batch: int) -> float:
        """Of one call; that of a batch is as many times that of one row."""
        return batch * _tflop(self, pixels)

    @property
    def weight_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in _outline(self).parameters())


@dataclass(frozen=True, slots=True)
class Case:
    network: Network
    way: Way
    pixels: int
    batch: int


def networks() -> tuple[Network, Network, Network, Network]:
    """Kontext's denoiser, encoder and decoder, and the UNet."""
    dtype, d = torch.bfloat16, kontext_dimensions(PRECISION)

    def encoder(device: torch.device) -> nn.Module:
        return kontext_autoencoder(device, dtype)[0]

    def decoder(device: torch.device) -> nn.Module:
        return kontext_autoencoder(device, dtype)[1]

    return (
        Network(
            "FLUX.1 Kontext denoiser",
            denoiser_spec(d),
            lambda device: kontext_denoiser(device, dtype),
            lambda pixels: _kontext_lengths(d, pixels),
        ),
        Network("FLUX.1 VAE encoder", vae_encoder_spec(d), encoder, lambda pixels: _kontext_lengths(d, pixels)),
        Network("FLUX.1 VAE decoder", vae_decoder_spec(d), decoder, lambda pixels: _kontext_lengths(d, pixels)),
        Network("SD 1.5 UNet", unet_spec(PRECISION), lambda device: unet_denoiser(device, dtype), _unet_lengths),
    )


def cases() -> list[Case]:
    """What matters most comes first, for the time may be up before the end."""
    denoiser, encoder, decoder, unet = networks()
    several = BATCHES[1:]
    plan: list[tuple[Network, tuple[Way, ...], tuple[int, ...], tuple[int, ...]]] = [
        (denoiser, (COMPILED, GRAPHS, EAGER), PIXELS, (1,)),
        (encoder, (GRAPHS, EAGER), PIXELS, (1,)),
        (decoder, (GRAPHS, EAGER), PIXELS, (1,)),
        (denoiser, (COMPILED,), (512, 1024, 256), several),
        (denoiser, (EAGER,), (512, 1024, 256), several),
        (unet, (COMPILED, EAGER), (512, 256, 1024), BATCHES),
        (unet, (TENSORRT,), (512, 1024), (1,)),
        (denoiser, (TENSORRT,), (512, 1024), (1,)),
    ]
    return [
        Case(network, way, pixels, batch)
        for network, ways, sizes, batches in plan
        for pixels in sizes
        for batch in batches
        for way in ways
    ]


def main() -> None:
    arguments = _arguments()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device, and torch finds none here")
    device = torch.device("cuda:0")
    report = measure(device, Budget.of_minutes(arguments.minutes), arguments.output)
    print(markdown(report))


def measure(device: torch.device, budget: Budget, folder: Path) -> Report:
    """The report, written to the folder after each row: what stops the command leaves what it had found."""
    report = Report(_machine(device), 2 * MATRIX_SIDE**3 / 1e12)
    report.ceiling = matrix_product(device, MATRIX_SIDE)
    bench = Bench(device, *_tools(report, device))
    for case in cases():
        report.rows.append(measured(case, report, bench, budget))
        write(report, folder)
        print(_told(report.rows[-1]), file=sys.stderr, flush=True)
    return report


def _tools(report: Report, device: torch.device) -> tuple[Library | None, str]:
    """TensorRT, where it runs, and why torch.compile does not work, or nothing."""
    library, fault = None, ""
    try:
        compiler.prepare(device)
    except ConfigurationError as error:
        fault = str(error)
    try:
        library = library_here(device)
        report.tensorrt = library.said
    except NotThere as error:
        report.tensorrt = str(error)
    return library, fault


def measured(case: Case, report: Report, bench: "Bench", budget: Budget) -> Row:
    """A case's row, or why it has no timing."""
    network = case.network
    row = Row(network.name, case.way, case.pixels, case.batch, network.tflop(case.pixels, case.batch))
    skipped = budget.lacks(foreseen_s(case, report.ceiling_tflop_per_s))
    if skipped:
        return replace(row, skipped=skipped)
    try:
        timing, peak_gib, way = bench.timed(case)
    except NotThere as error:
        return replace(row, skipped=str(error))
    except torch.OutOfMemoryError:
        return replace(row, skipped="does not fit into the device's memory")
    except RuntimeError as error:  # of torch's compiler, or of one of its kernels; the other rows are worth having
        return replace(row, skipped=f"failed: {next(iter(str(error).splitlines()), type(error).__name__)}")
    return replace(row, way=way, timing=timing, peak_gib=peak_gib)


class Bench:
    """Where networks run. It holds the one that was asked for last: the largest fills a small GPU alone.

    library: TensorRT, where it runs. uncompilable: why torch.compile does not work here, or nothing. graphs: what
    launches a run as a CUDA graph.
    """

    def __init__(
        self,
        device: torch.device,
        library: Library | None = None,
        uncompilable: str = "",
        graphs: Callable[[str, Recordable, torch.device], Run] = CudaGraphs,
    ) -> None:
        self._device, self._library, self._uncompilable, self._graphs = device, library, uncompilable, graphs
        self._name = ""
        self._module = nn.Module()
        self._compiled: Callable[..., object] | None = None
        self._calls = 0

    def timed(self, case: Case) -> tuple[Timing, float, Way]:
        """And the most memory in GiB that was taken, and the way that it ran: a network that cannot be recorded runs
        without a graph. Raises NotThere, OutOfMemoryError."""
        lengths = {**case.network.lengths(case.pixels), "batch": case.batch}
        try:
            inputs = random_inputs(case.network.spec, lengths)
            placed = {name: tensor.to(self._device) for name, tensor in inputs.items()}
            run = self._run(case)
            eager = case.way in {EAGER, GRAPHS}
            with torch.inference_mode(), torch.compiler.set_stance("force_eager" if eager else "default"):
                self._reset_peak()
                timing = timed(lambda: run(placed), self._device)
                peak_gib, calls = self._peak_gib(), self._calls
                run(placed)
            return timing, peak_gib, UNRECORDED.get(case.way, case.way) if self._calls > calls else case.way
        finally:
            self._tidy()

    def _run(self, case: Case) -> Run:
        module = self._loaded(case.network)
        if case.way == TENSORRT:
            return self._engine(case, module)
        if case.way == COMPILED:
            if self._uncompilable:
                raise NotThere(self._uncompilable)
            self._compiled = self._compiled or compiler.compiled(module)
            return self._graphs(case.network.name, self._counted(_by_name(self._compiled)), self._device)
        called = self._counted(_by_name(module))
        return called if case.way == EAGER else self._graphs(case.network.name, called, self._device)

    def _counted(self, run: Recordable) -> Recordable:
        """Counts the calls: a graph that is replayed makes none."""

        def called(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            self._calls += 1
            return run(inputs)

        return called

    def _engine(self, case: Case, module: nn.Module) -> Run:
        if self._library is None:
            raise NotThere("TensorRT does not run here")
        lengths = {**case.network.lengths(case.pixels), "batch": case.batch}
        named = {axis.name: lengths[axis.name] for axis in case.network.spec.axes}
        with tempfile.TemporaryDirectory() as folder, torch.compiler.set_stance("force_eager"):
            return engine_of(self._library, case.network.spec, module, named, self._device, Path(folder))

    def _loaded(self, network: Network) -> nn.Module:
        if self._name != network.name:
            self._name, self._module, self._compiled = "", nn.Module(), None
            self._tidy()
            self._name, self._module = network.name, network.make(self._device)
        return self._module

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def _peak_gib(self) -> float:
        """Of torch; what TensorRT takes beside it is not in it."""
        return torch.cuda.max_memory_allocated(self._device) / GIB if self._device.type == "cuda" else 0.0

    def _tidy(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def matrix_product(device: torch.device, side: int) -> Timing:
    """Of random numbers: zeros take less power, and run faster."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    return timed(lambda: torch.mm(left, right, out=out), device)


def timed(work: Callable[[], object], device: torch.device) -> Timing:
    """By CUDA's events, or on a CPU by its clock; after warm-ups, of which the last tells how many repeats there is
    time for."""
    for _ in range(WARM_UPS):
        work()
    once_s = _elapsed_ms(work, device, 1)[0] / 1000
    repeats = max(TIMED_REPEATS, min(MAX_REPEATS, int(MAX_TIMED_S / max(once_s, 1e-6))))
    return timing_of(_elapsed_ms(work, device, repeats))


def _elapsed_ms(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    if device.type != "cuda":
        return [_clocked_ms(work) for _ in range(repeats)]
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for started, ended in events:
        started.record()
        work()
        ended.record()
    torch.cuda.synchronize(device)
    return [started.elapsed_time(ended) for started, ended in events]


def _clocked_ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1000


def foreseen_s(case: Case, ceiling_tflop_per_s: float) -> float:
    """How long a case will take, preparations included."""
    call_s = case.network.tflop(case.pixels, case.batch) / (ASSUMED_SHARE * ceiling_tflop_per_s)
    repeats_s = max(TIMED_REPEATS * call_s, min(MAX_REPEATS * call_s, MAX_TIMED_S))
    engine_s = ENGINE_S_PER_GB * case.network.weight_bytes / 1e9 if case.way == TENSORRT else 0.0
    return PREPARING_S[case.way] + engine_s + (WARM_UPS + 1) * call_s + repeats_s


@lru_cache
def _outline(network: Network) -> nn.Module:
    """The network without any memory."""
    return network.make(torch.device("meta"))


@lru_cache
def _tflop(network: Network, pixels: int) -> float:
    inputs = random_inputs(network.spec, {**network.lengths(pixels), "batch": 1})
    return tflop_of(_outline(network), {name: tensor.to("meta") for name, tensor in inputs.items()})


def _by_name(module: Callable[..., object]) -> Recordable:
    def called(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        answer: Any = module(**inputs)
        return answer if isinstance(answer, tuple) else (answer,)

    return called


def _told(row: Row) -> str:
    said = row.skipped or (f"{row.timing.median_ms:.2f} ms, {row.tflop_per_s:.0f} TFLOP/s" if row.timing else "")
    return f"{row.network}, {row.way}, {row.pixels} px, batch {row.batch}: {said}"


def _kontext_lengths(d: Dimensions, pixels: int) -> dict[str, int]:
    """With one reference of the picture's size."""
    tokens, cells = (pixels // d.token_pixels) ** 2, pixels // d.cell_pixels
    sides = {"height": pixels, "width": pixels, "latent_height": cells, "latent_width": cells}
    return {"tokens": tokens, "reference_tokens": tokens, "positions": d.t5_tokens + 2 * tokens, **sides}


def _unet_lengths(pixels: int) -> dict[str, int]:
    return {"latent_height": pixels // UNET_DOWNSCALE, "latent_width": pixels // UNET_DOWNSCALE}


def _machine(device: torch.device) -> dict[str, str]:
    properties = torch.cuda.get_device_properties(device)
    return {
        "GPU": f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.total_memory / GIB:.0f} GiB",
        "PyTorch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "diffusers": _version("diffusers"),
        "precision": PRECISION,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of no package"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="that all may take together (default 8)")
    parser.add_argument("--output", type=Path, default=Path(), help="the folder for gpu.json and gpu.md (default .)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
