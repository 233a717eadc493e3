"""GELU that keeps its input as blocks, in plain PyTorch."""

from __future__ import annotations

import torch

from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks


def gelu_forward(
    x: torch.Tensor, approximate: str, bits: int, block_size: int, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y like x, contiguous, and codes and scales of x as a matrix [.., N]."""
    y = torch.nn.functional.gelu(x, approximate=approximate).contiguous()
    matrix = torch.atleast_2d(x).flatten(0, -2)
    return y, *quantize_blocks(matrix, bits=bits, block_size=block_size, seed=seed)


def gelu_backward(
    grad_y: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    approximate: str,
    bits: int,
    block_size: int,
) -> torch.Tensor:
    """The gradient for x, of the shape and dtype of grad_y (which are those of x)."""
    cols = torch.atleast_2d(grad_y).shape[-1]
    x = dequantize_blocks(
        codes, scales, cols=cols, bits=bits, block_size=block_size, dtype=grad_y.dtype
    )
    grad_y = grad_y.contiguous()
    return torch.ops.aten.gelu_backward(grad_y, x.view(grad_y.shape), approximate=approximate)
