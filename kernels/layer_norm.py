"""LayerNorm of a sum that is kept as INT8 or INT4 blocks; its residual is added on the way."""

from __future__ import annotations

import torch

from fedquad.kernels.layer_norm_kernels import (
    _layer_norm_backward_triton,
    _layer_norm_triton,
    empty_outputs,
)
from fedquad.kernels.options import check_options
from fedquad.kernels.reference.layer_norm import layer_norm_backward, layer_norm_forward
from fedquad.kernels.row_tiles import autocast_to_fp32

__all__ = ["layer_norm"]

_forward = torch.library.custom_op(
    "fedquad::layer_norm", layer_norm_forward, mutates_args=(), device_types="cpu"
)
_forward.register_kernel("cuda")(_layer_norm_triton)
_forward.register_fake(empty_outputs)

_backward = torch.library.custom_op(
    "fedquad::layer_norm_backward", layer_norm_backward, mutates_args=(), device_types="cpu"
)
_backward.register_kernel("cuda")(_layer_norm_backward_triton)


@_backward.register_fake
def _(grad_y, grad_sum, codes, scales, mean, rstd, weight, dtype, needs_weight, needs_bias, *_):
    grad = torch.empty_like(grad_y, dtype=dtype, memory_format=torch.contiguous_format)
    cols = grad_y.shape[-1]
    grad_weight = mean.new_empty(cols if needs_weight else 0)
    return grad, grad_weight, mean.new_empty(cols if needs_bias else 0)


def _setup_context(ctx, inputs, output):
    x, residual, weight, bias, _, _, _, ctx.bits, ctx.block_size, _ = inputs
    _, total, codes, scales, mean, rstd = output
    # The sum is empty where it is not wanted, and has its dtype all the same.
    ctx.sum_dtype = total.dtype
    ctx.dtypes = [None if t is None else t.dtype for t in (x, residual, weight, bias)]
    ctx.save_for_backward(codes, scales, mean, rstd, weight)
    ctx.mark_non_differentiable(codes, scales, mean, rstd)
    ctx.set_materialize_grads(False)  # or zeros are made for the codes


def _differentiate(ctx, grad_y, grad_sum, *_):
    needed = ctx.needs_input_grad[:4]
    if grad_y is None:
        grads = [grad_sum, grad_sum, None, None]
    else:
        grad, grad_weight, grad_bias = _backward(
            grad_y,
            grad_sum,
            *ctx.saved_tensors,
            ctx.sum_dtype,
            *needed[2:],
            ctx.bits,
            ctx.block_size,
        )
        grads = [grad, grad, grad_weight, grad_bias]
    for idx, grad in enumerate(grads):
        grads[idx] = grad.to(ctx.dtypes[idx]) if needed[idx] and grad is not None else None
    return *grads, None, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    *,
    residual: torch.Tensor | None = None,
    return_sum: bool = False,
    bits: int = 8,
    block_size: int = 32,
    seed: int | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """LayerNorm of x + residual over the last dimension, keeping the sum as quantized blocks only.

    Parameters
    ----------
    x : torch.Tensor
        (..., N), fp32, bf16 or fp16.
    weight, bias : torch.Tensor or None
        (N,), of any of these dtypes.
    eps : float
        Added to the variance.
    residual : torch.Tensor, optional
        (..., N), as x, of the same or another of these dtypes.
    return_sum : bool
        Whether x + residual is wanted too, for the next residual of a pre-norm model.
    bits : {8, 4}
        Of a code.
    block_size : int
        Rows and columns of a block: 8, 16, 32, 64 or 128.
    seed : int, optional
        Round stochastically with the noise of this seed, ``0 <= seed < 2**63``;
        to nearest where it is None.

    Returns
    -------
    torch.Tensor or tuple of torch.Tensor
        y (..., N), contiguous, and where asked for the sum, as PyTorch gives it for these dtypes; y
        has the sum's dtype, fp32 under autocast on CUDA. Kept beside the blocks are mean and 1 /
        standard deviation of the rows, in fp32. The gradients are those of PyTorch's LayerNorm at
        the dequantized sum and these. Where no gradient is needed nothing is kept, and PyTorch's
        LayerNorm runs.

    Raises
    ------
    ValueError
        For a dtype, a shape or an option that is not one of these.
    """
    check_options(x, bits, block_size, seed)
    if residual is not None:
        check_options(residual, bits, block_size, seed)
        if residual.shape != x.shape:
            raise ValueError(
                f"residual of shape {tuple(residual.shape)} cannot be used: "
                f"expected that of x, {tuple(x.shape)}"
            )
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} of shape {tuple(vector.shape)} cannot be used: "
                f"expected {tuple(x.shape[-1:])}"
            )
    given = [tensor for tensor in (x, residual, weight, bias) if tensor is not None]
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)):
        total = x if residual is None else x + residual
        y = torch.nn.functional.layer_norm(total, total.shape[-1:], weight, bias, eps)
        return (y, total) if return_sum else y
    dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    if autocast_to_fp32(x):
        dtype = torch.float32
    # Without a residual the sum is x itself, which the operation need not copy.
    copy_sum = return_sum and residual is not None
    y, total, *_ = _forward(x, residual, weight, bias, eps, dtype, copy_sum, bits, block_size, seed)
    if not return_sum:
        return y
    return y, total if copy_sum else x
