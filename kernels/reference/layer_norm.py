"""LayerNorm of a sum that is kept as blocks, in plain PyTorch."""

from __future__ import annotations

import torch

from fedquad.kernels.reference.blocks import dequantize_blocks, quantize_blocks


def layer_norm_forward(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    dtype: torch.dtype,
    return_sum: bool,
    bits: int,
    block_size: int,
    seed: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """y in ``dtype``, the sum or an empty tensor, its codes and scales, mean and rstd [rows]."""
    total = x if residual is None else x + residual
    # In fp32 whatever the dtypes: PyTorch's kernels do the same inside, but those for a CPU keep
    # the statistics of half-precision input in half precision.
    y, mean, rstd = torch.native_layer_norm(
        total.float(), total.shape[-1:], _float(weight), _float(bias), eps
    )
    codes, scales = quantize_blocks(
        torch.atleast_2d(total).flatten(0, -2), bits=bits, block_size=block_size, seed=seed
    )
    kept = total.contiguous() if return_sum else total.new_empty(0)
    return y.to(dtype).contiguous(), kept, codes, scales, mean.flatten(), rstd.flatten()


def layer_norm_backward(
    grad_y: torch.Tensor,
    grad_sum: torch.Tensor | None,
    codes: torch.Tensor,
    scales: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    dtype: torch.dtype,
    needs_weight: bool,
    needs_bias: bool,
    bits: int,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients for the sum, in its ``dtype``, and for weight and bias in fp32 (empty: not needed).

    ``grad_sum`` is what arrives for the sum itself, of the sum's dtype.
    """
    shape = grad_y.shape
    total = dequantize_blocks(
        codes, scales, cols=shape[-1], bits=bits, block_size=block_size, dtype=dtype
    )
    statistics = (*shape[:-1], 1)
    grads = torch.ops.aten.native_layer_norm_backward(
        grad_y.float().contiguous(),
        total.float().view(shape),
        shape[-1:],
        mean.view(statistics),
        rstd.view(statistics),
        _float(weight),
        mean.new_empty(shape[-1:]),  # a bias: its values play no part, its shape does
        [True, needs_weight, needs_bias],
    )
    grad_total = grads[0] if grad_sum is None else grads[0] + grad_sum
    empty = mean.new_empty(0)
    return (
        grad_total.to(dtype).contiguous(),
        grads[1] if needs_weight else empty,
        grads[2] if needs_bias else empty.clone(),
    )


def _float(weight: torch.Tensor | None) -> torch.Tensor | None:
    return None if weight is None else weight.float()
