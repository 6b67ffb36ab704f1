"""Two of the 57 blocks of FLUX.1 Kontext's transformer at their true width, from torch to a TensorRT plan for sm_89.

`python -m tests.slow.real_width FOLDER` prints seconds, bytes and the process' peak memory as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.real_models import kontext_denoiser, kontext_dimensions
from build_engines.export import export
from build_engines.profiles import shapes_of
from build_engines.tensorrt import PlanOptions, compile_plan, refusal
from serve.families.flux_kontext_components import denoiser_spec

TOKENS = 4096
"""Of 1024 x 1024 pixels; as many again are of the reference."""


def build(folder: Path) -> dict[str, float]:
    """Export and compile. Seconds, bytes, and the most memory that the process held after each part."""
    torch.set_num_threads(1)
    report: dict[str, float] = {}
    started_s = time.monotonic()

    def done(part: str) -> None:
        nonlocal started_s
        now_s = time.monotonic()
        report[f"{part}_s"], started_s = round(now_s - started_s, 1), now_s
        report[f"{part}_peak_gib"] = report["peak_gib"] = _peak_gib()
        print(f"{part}: {report[f'{part}_s']} s, peak {report['peak_gib']} GiB", file=sys.stderr, flush=True)

    dimensions = kontext_dimensions("bfloat16")
    spec = denoiser_spec(dimensions)
    module = kontext_denoiser(torch.device("cpu"), torch.bfloat16, double=1, single=1)
    report["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    report["weight_bytes"] = sum(parameter.nbytes for parameter in module.parameters())
    done("make")

    onnx, plan = folder / "model.onnx", folder / "model.plan"
    example = {"tokens": 16, "reference_tokens": 32, "positions": dimensions.t5_tokens + 48}
    report["opset"] = export(spec, module, example, onnx, refusal)
    report["onnx_bytes"] = sum(path.stat().st_size for path in folder.iterdir())
    del module
    done("export")

    drawn = {"tokens": TOKENS, "reference_tokens": TOKENS, "positions": dimensions.t5_tokens + 2 * TOKENS}
    options = PlanOptions(shapes_of(spec, [drawn], [1]), architecture="sm_89")
    compile_plan(onnx, plan, spec, options, lambda phase, share: None)
    report["plan_bytes"] = plan.stat().st_size
    done("compile")
    return report


def _peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]))))
