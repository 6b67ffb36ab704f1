"""What a build needs of the machine, and the refusal of one that has too little."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from build_engines.room import COPIES_IN_MEMORY, Room, refuse_small_machine, room_for
from serve.backends.fingerprint import numbers_in
from serve.backends.memory import CpuMemory
from serve.errors import ConfigurationError

LIMIT_BYTES = 2**20


def test_weights_are_counted_whatever_precision_they_lie_in(tmp_path: Path):
    """A folder may hold each tensor several times, and in pieces."""
    whole = {"a": torch.zeros(30, 40), "b": torch.zeros(5)}
    for name, precision in (("model", torch.float32), ("model.fp16", torch.float16)):
        save_file({key: tensor.to(precision) for key, tensor in whole.items()}, tmp_path / f"{name}.safetensors")
    save_file({"c": torch.zeros(7)}, tmp_path / "model-00002-of-00002.safetensors", {"format": "pt"})

    assert numbers_in(tmp_path) == 30 * 40 + 5 + 7


def test_weights_of_another_format_are_taken_for_halves(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(bytes(600))

    assert numbers_in(tmp_path) == 300


def test_a_build_needs_a_multiple_of_the_weights():
    assert room_for("tensorrt", 1000) == Room(memory=COPIES_IN_MEMORY["tensorrt"] * 1000, disk=2400)


def test_the_limit_of_a_control_group_is_the_memory_that_there_is(tmp_path: Path):
    """Of version 2, as a container shows it: the machine may have far more."""
    (tmp_path / "membership").write_text("0::/\n")
    (tmp_path / "memory.max").write_text(str(LIMIT_BYTES))
    (tmp_path / "memory.current").write_text("0")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    meter = CpuMemory(tmp_path / "membership", tmp_path)

    refuse_small_machine("denoiser", Room(LIMIT_BYTES // 2, 0), tmp_path, meter)
    with pytest.raises(ConfigurationError, match=r"the build of denoiser needs 0\.01 GB of memory; 0\.00 GB are free"):
        refuse_small_machine("denoiser", Room(10 * LIMIT_BYTES, 0), tmp_path, meter)
