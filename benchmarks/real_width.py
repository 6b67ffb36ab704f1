"""What it takes to compile FLUX.1 Kontext's transformer at its true width, where there is no GPU.

`python -m benchmarks.real_width` takes two of its 57 blocks, one of each kind, with random weights, from torch to
ONNX to a TensorRT plan for sm_89, for 1024 pixels with one reference. The process' peak memory is told after each part,
so it does nothing else.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import load_average, machine
from benchmarks.real_models import kontext_denoiser, kontext_dimensions
from build_engines.export import export
from build_engines.profiles import shapes_of
from build_engines.tensorrt import PlanOptions, compile_plan, refusal
from serve.families.flux_kontext_components import denoiser_spec

TOKENS = 4096
"""Of 1024 x 1024 pixels; as many again are of the reference."""
PARTS = {"make": "weights", "export": "ONNX, dynamo", "compile": "TensorRT for RTX"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder for real_width.json and real_width.md")
    arguments = parser.parse_args()
    load_before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        report = build(Path(folder))
    told = {"machine": asdict(machine(load_before)), **report}
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "real_width.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
        (arguments.out / "real_width.md").write_text(_page(told), encoding="utf-8")
    print(json.dumps(report))


def build(folder: Path) -> dict[str, float]:
    """Export and compile. Seconds, bytes, and the most memory that the process held until the end of each part."""
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


def _page(told: Mapping[str, Any]) -> str:
    about = told["machine"]
    rows = "\n".join(f"| {what} | {told[f'{part}_s']} | {told[f'{part}_peak_gib']} |" for part, what in PARTS.items())
    gib = {name: f"{told[f'{name}_bytes'] / 2**30:.2f} GiB" for name in ("weight", "onnx", "plan")}
    return (
        "# A transformer of FLUX.1 Kontext's width, compiled\n\n"
        f"{about['cpu']}, {about['cores']} cores, load average {about['load_before']:.1f} before, one thread of torch; "
        "`python -m benchmarks.real_width`. One double and one single block of 57, "
        f"{told['parameters'] / 1e6:.0f} million parameters in bfloat16, for sm_89, 1024x1024 with one reference: "
        f"weights of {gib['weight']}, a graph of {gib['onnx']} in opset {told['opset']}, a plan of {gib['plan']}.\n\n"
        f"| part | s | process' peak memory until then, GiB |\n|---|---|---|\n{rows}\n"
    )


if __name__ == "__main__":
    main()
