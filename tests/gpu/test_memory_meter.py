"""The meter of a CUDA device's memory against what tensors and graphs take."""

import torch

from serve.backends.memory import memory_of
from tests.gpu import CUDA, on_a_gpu

pytestmark = on_a_gpu

MIB = 2**20


def test_a_tensor_is_used_memory_and_its_peak_stays_until_it_is_reset():
    memory = memory_of(CUDA)
    memory.release()
    memory.reset_peak()
    before = memory.used_bytes()

    tensor = torch.ones(256 * MIB, dtype=torch.uint8, device=CUDA)
    assert memory.used_bytes() - before == tensor.nbytes
    del tensor

    assert memory.used_bytes() == before
    assert memory.peak_bytes() - before == 256 * MIB
    memory.reset_peak()
    assert memory.peak_bytes() == before


def test_what_is_kept_for_reuse_counts_as_capacity_and_can_be_given_back():
    memory = memory_of(CUDA)
    memory.release()
    torch.ones(256 * MIB, dtype=torch.uint8, device=CUDA)
    kept, capacity = torch.cuda.memory_reserved(CUDA), memory.capacity_bytes()

    memory.release()

    assert kept - torch.cuda.memory_reserved(CUDA) >= 256 * MIB
    assert abs(memory.capacity_bytes() - capacity) <= 16 * MIB
    assert capacity <= torch.cuda.get_device_properties(CUDA).total_memory
