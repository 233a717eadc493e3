"""Softmax that keeps its probabilities as unsigned blocks, in plain PyTorch."""

from __future__ import annotations

import torch

from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks


def softmax_forward(
    scores: torch.Tensor, dtype: torch.dtype, bits: int, block_size: int, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """p of the shape of scores, in ``dtype``, and its codes and scales as a matrix [.., N]."""
    p = torch.softmax(scores, -1, dtype=torch.float32).to(dtype).contiguous()
    matrix = torch.atleast_2d(p).flatten(0, -2)
    return p, *quantize_blocks(matrix, bits=bits, block_size=block_size, signed=False, seed=seed)


def softmax_backward(
    grad_p: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    dtype: torch.dtype,
    bits: int,
    block_size: int,
) -> torch.Tensor:
    """The gradient for the scores, in their ``dtype``."""
    cols = torch.atleast_2d(grad_p).shape[-1]
    p = dequantize_blocks(
        codes,
        scales,
        cols=cols,
        bits=bits,
        block_size=block_size,
        signed=False,
        dtype=grad_p.dtype,
    )
    wide = grad_p.float().contiguous()
    grad = torch.ops.aten._softmax_backward_data(
        wide, p.float().view(wide.shape), -1, torch.float32
    )
    return grad.to(dtype)
