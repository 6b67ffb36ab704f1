"""What only a CUDA device can show. Needs no network; `pytest -m gpu` runs it and nothing else."""

import pytest
import torch

CUDA = torch.device("cuda:0")
on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
