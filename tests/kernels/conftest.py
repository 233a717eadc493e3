"""What tests of kernels share. Without a GPU they run in Triton's interpreter, on small tensors."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def torch_device():
    """Where kernels are launched."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def dtype(request):
    return request.param


@pytest.fixture
def make_matrix():
    """Normal numbers of a seed, each row and column of another magnitude."""

    def make(rows, cols, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        magnitudes = [torch.randn(n, generator=generator).exp() for n in (rows, cols)]
        normal = torch.randn(rows, cols, generator=generator)
        return (normal * magnitudes[0][:, None] * magnitudes[1]).to(dtype)

    return make
