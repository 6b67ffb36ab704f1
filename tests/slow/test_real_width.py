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
        [sys.executable, "-m", "tests.slow.real_width", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report, indent=2))
    assert report["opset"] in {20, 23}
    assert report["parameters"] > 480e6
    assert report["plan_bytes"] > 0.9 * report["weight_bytes"], "a plan holds its weights"
    assert report["peak_gib"] * 2**30 < COPIES_IN_MEMORY["tensorrt"] * report["weight_bytes"], "as a build is told"
