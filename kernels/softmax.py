"""Softmax over the last dimension that keeps its probabilities as unsigned blocks."""

from __future__ import annotations

import torch

from fedquad.kernels.language import Variant, jit, tl, triton
from fedquad.kernels.options import check_options
from fedquad.kernels.reference.blocks import empty_blocks
from fedquad.kernels.reference.softmax import softmax_backward, softmax_forward
from fedquad.kernels.row_tiles import (
    NUM_WARPS,
    as_matrix,
    autocast_to_fp32,
    keep_tile,
    kept_tile,
    tile_columns,
    variant,
)
from fedquad.kernels.tiles import round_to

__all__ = ["COMPILED", "softmax"]


@jit
def _forward_kernel(
    scores_ptr, p_ptr, codes_ptr, scales_ptr, rows, cols, codes_stride, seed,
    BITS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    top = tl.program_id(0) * BLOCK
    r = top + tl.arange(0, BLOCK)[:, None]
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for left in range(0, cols, COLUMNS):
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        scores = tl.load(scores_ptr + places, mask=inside, other=float("-inf")).to(tl.float32)
        risen = tl.maximum(peak, tl.max(scores, 1))
        # While all that was seen is masked, -inf - -inf would make a NaN of what comes later.
        shift = tl.where(risen == float("-inf"), 0.0, risen)
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(scores - shift[:, None]), 1)
        peak = risen
    shift = tl.where(peak == float("-inf"), 0.0, peak)[:, None]
    # A row that is masked throughout has total 0 and becomes NaN, as in PyTorch.
    total = tl.where(r < rows, total[:, None], 1.0)
    for left in range(0, cols, COLUMNS):
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        scores = tl.load(scores_ptr + places, mask=inside, other=float("-inf")).to(tl.float32)
        p = round_to(tl.exp(scores - shift) / total, p_ptr.dtype.element_ty)
        tl.store(p_ptr + places, p, mask=inside)  # outside of the matrix p is 0: exp(-inf)
        keep_tile(
            p, codes_ptr, scales_ptr, top, left, rows, cols, codes_stride, seed,
            BITS, False, BLOCK, STOCHASTIC,
        )  # fmt: skip


@jit
def _backward_kernel(
    grad_p_ptr, codes_ptr, scales_ptr, grad_scores_ptr, rows, cols, codes_stride,
    BITS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    top = tl.program_id(0) * BLOCK
    r = top + tl.arange(0, BLOCK)[:, None]
    common = tl.zeros([BLOCK], tl.float32)
    for left in range(0, cols, COLUMNS):
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        grad_p = tl.load(grad_p_ptr + places, mask=inside, other=0.0).to(tl.float32)
        p = kept_tile(
            codes_ptr, scales_ptr, top, left, rows, cols, codes_stride,
            BITS, False, BLOCK, COLUMNS, grad_p_ptr.dtype.element_ty,
        )  # fmt: skip
        common += tl.sum(grad_p * p, 1)
    for left in range(0, cols, COLUMNS):
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        grad_p = tl.load(grad_p_ptr + places, mask=inside, other=0.0).to(tl.float32)
        p = kept_tile(
            codes_ptr, scales_ptr, top, left, rows, cols, codes_stride,
            BITS, False, BLOCK, COLUMNS, grad_p_ptr.dtype.element_ty,
        )  # fmt: skip
        grad = p * (grad_p - common[:, None])
        grad = round_to(grad, grad_scores_ptr.dtype.element_ty)
        tl.store(grad_scores_ptr + places, grad, mask=inside)


def _softmax_triton(
    scores: torch.Tensor, dtype: torch.dtype, bits: int, block_size: int, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = scores.contiguous()
    rows, cols = as_matrix(scores).shape
    p, codes, scales = _empty_outputs(scores, dtype, bits, block_size, seed)
    if scores.numel():
        with torch.cuda.device_of(scores):
            _forward_kernel[(triton.cdiv(rows, block_size),)](
                scores, p, codes, scales, rows, cols, codes.shape[1], seed or 0,
                BITS=bits, BLOCK=block_size, COLUMNS=tile_columns(cols, block_size),
                STOCHASTIC=seed is not None, num_warps=NUM_WARPS,
            )  # fmt: skip
    return p, codes, scales


def _softmax_backward_triton(
    grad_p: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    dtype: torch.dtype,
    bits: int,
    block_size: int,
) -> torch.Tensor:
    grad_p = grad_p.contiguous()
    rows, cols = as_matrix(grad_p).shape
    grad_scores = torch.empty_like(grad_p, dtype=dtype)
    if grad_p.numel():
        with torch.cuda.device_of(grad_p):
            _backward_kernel[(triton.cdiv(rows, block_size),)](
                grad_p, codes, scales, grad_scores, rows, cols, codes.shape[1],
                BITS=bits, BLOCK=block_size, COLUMNS=tile_columns(cols, block_size),
                num_warps=NUM_WARPS,
            )  # fmt: skip
    return grad_scores


def _empty_outputs(
    scores: torch.Tensor, dtype: torch.dtype, bits: int, block_size: int, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    p = torch.empty_like(scores, dtype=dtype, memory_format=torch.contiguous_format)
    return p, *empty_blocks(as_matrix(scores), bits=bits, block_size=block_size, signed=False)


_forward = torch.library.custom_op(
    "fedquad::softmax", softmax_forward, mutates_args=(), device_types="cpu"
)
_forward.register_kernel("cuda")(_softmax_triton)
_forward.register_fake(_empty_outputs)

_backward = torch.library.custom_op(
    "fedquad::softmax_backward", softmax_backward, mutates_args=(), device_types="cpu"
)
_backward.register_kernel("cuda")(_softmax_backward_triton)


@_backward.register_fake
def _(grad_p, codes, scales, dtype, bits, block_size):
    return torch.empty_like(grad_p, dtype=dtype, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    scores, _, ctx.bits, ctx.block_size, _ = inputs
    _, codes, scales = output
    ctx.dtype = scores.dtype
    ctx.save_for_backward(codes, scales)
    ctx.mark_non_differentiable(codes, scales)
    ctx.set_materialize_grads(False)  # or zeros are made for the codes


def _differentiate(ctx, grad_p, _grad_codes, _grad_scales):
    grad_scores = None
    if grad_p is not None:
        grad_scores = _backward(grad_p, *ctx.saved_tensors, ctx.dtype, ctx.bits, ctx.block_size)
    return grad_scores, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def softmax(
    scores: torch.Tensor, *, bits: int = 8, block_size: int = 32, seed: int | None = None
) -> torch.Tensor:
    """`torch.softmax` over the last dimension, keeping p for backward as unsigned blocks only.

    Parameters
    ----------
    scores : torch.Tensor
        (..., N), fp32, bf16 or fp16. Masked elements are -inf or very low. A row that is -inf
        throughout gives NaN, as in PyTorch; so do then, in backward, the blocks it shares with
        other rows.
    bits : {8, 4}
        Of a code.
    block_size : int
        Rows and columns of a block: 8, 16, 32, 64 or 128.
    seed : int, optional
        Round stochastically with the noise of this seed, ``0 <= seed < 2**63``;
        to nearest where it is None.

    Returns
    -------
    torch.Tensor
        p (..., N), contiguous, of the dtype that PyTorch gives it: fp32 under autocast on CUDA. Its
        gradient is that of PyTorch's softmax at the dequantized p. Where no gradient is needed
        nothing is kept, and PyTorch's softmax runs.

    Raises
    ------
    ValueError
        For a dtype or an option that is not one of these.
    """
    check_options(scores, bits, block_size, seed)
    if not (torch.is_grad_enabled() and scores.requires_grad):
        return torch.softmax(scores, -1)
    dtype = torch.float32 if autocast_to_fp32(scores) else scores.dtype
    return _forward(scores, dtype, bits, block_size, seed)[0]


def _variants() -> list[Variant]:
    sizes = {"rows": "i32", "cols": "i32", "codes_stride": "i32"}
    variants = []
    for kind, bits in (("fp32", 8), ("bf16", 8), ("fp16", 4)):
        shared = {"BITS": bits, "BLOCK": 32, "COLUMNS": 256}
        forward = {
            "scores_ptr": f"*{kind}",
            "p_ptr": f"*{kind}",
            "codes_ptr": "*u8",
            "scales_ptr": "*fp32",
            **sizes,
            "seed": "i64",
        }
        backward = {
            "grad_p_ptr": f"*{kind}",
            "codes_ptr": "*u8",
            "scales_ptr": "*fp32",
            "grad_scores_ptr": f"*{kind}",
            **sizes,
        }
        variants.append(variant(_forward_kernel, forward, shared | {"STOCHASTIC": bits == 4}))
        variants.append(variant(_backward_kernel, backward, shared))
    return variants


COMPILED = _variants()
