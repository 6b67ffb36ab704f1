"""FLUX.1 Kontext's transformer at its true width, from torch to a TensorRT plan. Needs no GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from build_engines.room import COPIES_IN_MEMORY

pytestmark = pytest.mark.slow


def test_the_kontext_transformer_compiles_at_its_true_width(tmp_path: Path):
    """In a process of its own, whose peak memory nothing else moves."""
    pytest.importorskip("tensorrt_rtx", reason="builds for another GPU than the one that is there")

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.real_width", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report, indent=2))
    assert json.loads((tmp_path / "real_width.json").read_text()).items() >= report.items()
    assert "TensorRT for RTX" in (tmp_path / "real_width.md").read_text()
    assert report["opset"] in {20, 23}
    assert report["parameters"] > 480e6
    assert report["plan_bytes"] > 0.9 * report["weight_bytes"], "a plan holds its weights"
    assert report["peak_gib"] * 2**30 < COPIES_IN_MEMORY["tensorrt"] * report["weight_bytes"], "as a build is told"
