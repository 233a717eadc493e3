"""The gradient of a small weight whose input is kept as blocks, in plain PyTorch."""

from __future__ import annotations

import torch

from fedquad.kernels.reference.blocks import dequantize_blocks


def lora_weight_grad(
    u: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    cols: int,
    bits: int,
    block_size: int,
    signed: bool,
) -> torch.Tensor:
    """u^T x (r, cols) in the dtype of u (T, r), of the x (T, cols) that was kept."""
    x = dequantize_blocks(
        codes,
        scales,
        cols=cols,
        bits=bits,
        block_size=block_size,
        signed=signed,
        dtype=u.dtype,
    )
    with torch.autocast(u.device.type, enabled=False):
        return (u.mT.float() @ x.float()).to(u.dtype)
