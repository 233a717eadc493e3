"""The kernels of LayerNorm: a program goes along one row of blocks, as often as it needs to."""

from __future__ import annotations

import torch

from fedquad.kernels.language import Variant, jit, tl, triton
from fedquad.kernels.reference.blocks import empty_blocks
from fedquad.kernels.row_tiles import (
    NUM_WARPS,
    as_matrix,
    keep_tile,
    kept_tile,
    tile_columns,
    variant,
)
from fedquad.kernels.tiles import round_to

__all__ = ["COMPILED", "_layer_norm_backward_triton", "_layer_norm_triton", "empty_outputs"]


@jit
def _load_sum(x_ptr, residual_ptr, places, inside, HAS_RESIDUAL: tl.constexpr, DTYPE: tl.constexpr):
    """x + residual in fp32, rounded as PyTorch rounds the sum."""
    total = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + places, mask=inside, other=0.0).to(tl.float32)
        total = round_to(total, DTYPE)
    return total


@jit
def _load_row(pointer, left, cols, COLUMNS: tl.constexpr):
    """[1, COLUMNS] of a vector, in fp32."""
    c = left + tl.arange(0, COLUMNS)
    return tl.load(pointer + c, mask=c < cols, other=0.0).to(tl.float32)[None, :]


@jit
def _forward_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, sum_ptr, codes_ptr, scales_ptr, mean_ptr,
    rstd_ptr, rows, cols, codes_stride, eps, seed,
    HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    RETURN_SUM: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):  # fmt: skip
    top = tl.program_id(0) * BLOCK
    r = top + tl.arange(0, BLOCK)[:, None]
    mean = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)  # of distances from the mean, summed
    for left in range(0, cols, COLUMNS):
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        total = _load_sum(
            x_ptr, residual_ptr, places, inside, HAS_RESIDUAL, sum_ptr.dtype.element_ty
        )
        # Statistics of tiles are joined as Chan et al. (1979) do: no cancellation, one pass.
        count = tl.minimum(cols - left, COLUMNS).to(tl.float32)
        tile_mean = tl.sum(total, 1) / count
        distance = tl.where(inside, total - tile_mean[:, None], 0.0)
        step = tile_mean - mean
        share = count / (left + count)
        mean += step * share
        squares += tl.sum(distance * distance, 1) + step * step * share * left
    rstd = tl.div_rn(1.0, tl.sqrt_rn(squares / cols + eps))
    row = top + tl.arange(0, BLOCK)
    tl.store(mean_ptr + row, mean, mask=row < rows)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)
    for left in range(0, cols, COLUMNS):
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        total = _load_sum(
            x_ptr, residual_ptr, places, inside, HAS_RESIDUAL, sum_ptr.dtype.element_ty
        )
        if RETURN_SUM:
            tl.store(sum_ptr + places, total, mask=inside)
        y = (total - mean[:, None]) * rstd[:, None]
        if HAS_WEIGHT:
            y *= _load_row(weight_ptr, left, cols, COLUMNS)
        if HAS_BIAS:
            y += _load_row(bias_ptr, left, cols, COLUMNS)
        tl.store(y_ptr + places, round_to(y, y_ptr.dtype.element_ty), mask=inside)
        keep_tile(
            total, codes_ptr, scales_ptr, top, left, rows, cols, codes_stride, seed,
            BITS, True, BLOCK, STOCHASTIC,
        )  # fmt: skip


@jit
def _load_backward(
    grad_y_ptr, codes_ptr, scales_ptr, weight_ptr, top, left, rows, cols, codes_stride, mean,
    rstd,
    HAS_WEIGHT: tl.constexpr, DTYPE: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of grad_y, of grad_y * weight, and of the normalised sum."""
    r = top + tl.arange(0, BLOCK)[:, None]
    c = left + tl.arange(0, COLUMNS)[None, :]
    inside = (r < rows) & (c < cols)
    places = r.to(tl.int64) * cols + c
    grad_y = tl.load(grad_y_ptr + places, mask=inside, other=0.0).to(tl.float32)
    total = kept_tile(
        codes_ptr, scales_ptr, top, left, rows, cols, codes_stride,
        BITS, True, BLOCK, COLUMNS, DTYPE,
    )  # fmt: skip
    normal = (total - mean[:, None]) * rstd[:, None]
    weighted = grad_y
    if HAS_WEIGHT:
        weighted *= _load_row(weight_ptr, left, cols, COLUMNS)
    return grad_y, weighted, normal


@jit
def _backward_kernel(
    grad_y_ptr, grad_sum_ptr, codes_ptr, scales_ptr, mean_ptr, rstd_ptr, weight_ptr, grad_ptr,
    grad_weight_ptr, grad_bias_ptr, rows, cols, codes_stride,
    HAS_GRAD_SUM: tl.constexpr, HAS_WEIGHT: tl.constexpr, NEEDS_WEIGHT: tl.constexpr,
    NEEDS_BIAS: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    top = tl.program_id(0) * BLOCK
    r = top + tl.arange(0, BLOCK)[:, None]
    row = top + tl.arange(0, BLOCK)
    mean = tl.load(mean_ptr + row, mask=row < rows, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
    plain = tl.zeros([BLOCK], tl.float32)
    along = tl.zeros([BLOCK], tl.float32)
    for left in range(0, cols, COLUMNS):
        grad_y, weighted, normal = _load_backward(
            grad_y_ptr, codes_ptr, scales_ptr, weight_ptr, top, left, rows, cols, codes_stride,
            mean, rstd, HAS_WEIGHT, grad_ptr.dtype.element_ty, BITS, BLOCK, COLUMNS,
        )  # fmt: skip
        plain += tl.sum(weighted, 1)
        along += tl.sum(weighted * normal, 1)
        # One row of partial sums a program; a second stage adds them, always in the same order.
        column = left + tl.arange(0, COLUMNS)
        partial = tl.program_id(0).to(tl.int64) * cols + column
        if NEEDS_WEIGHT:
            tl.store(grad_weight_ptr + partial, tl.sum(grad_y * normal, 0), mask=column < cols)
        if NEEDS_BIAS:
            tl.store(grad_bias_ptr + partial, tl.sum(grad_y, 0), mask=column < cols)
    plain = plain / cols
    along = along / cols
    for left in range(0, cols, COLUMNS):
        _, weighted, normal = _load_backward(
            grad_y_ptr, codes_ptr, scales_ptr, weight_ptr, top, left, rows, cols, codes_stride,
            mean, rstd, HAS_WEIGHT, grad_ptr.dtype.element_ty, BITS, BLOCK, COLUMNS,
        )  # fmt: skip
        grad = (weighted - plain[:, None] - normal * along[:, None]) * rstd[:, None]
        c = left + tl.arange(0, COLUMNS)[None, :]
        inside = (r < rows) & (c < cols)
        places = r.to(tl.int64) * cols + c
        if HAS_GRAD_SUM:
            grad += tl.load(grad_sum_ptr + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_ptr + places, round_to(grad, grad_ptr.dtype.element_ty), mask=inside)


def _layer_norm_triton(
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
    x = x.contiguous()
    rows, cols = as_matrix(x).shape
    outputs = empty_outputs(
        x, residual, weight, bias, eps, dtype, return_sum, bits, block_size, seed
    )
    y, total, codes, scales, mean, rstd = outputs
    if x.numel():
        with torch.cuda.device_of(x):
            _forward_kernel[(triton.cdiv(rows, block_size),)](
                x, x if residual is None else residual.contiguous(),
                x if weight is None else weight.contiguous(),
                x if bias is None else bias.contiguous(), y, total, codes, scales, mean, rstd,
                rows, cols, codes.shape[1], eps, seed or 0,
                HAS_RESIDUAL=residual is not None, HAS_WEIGHT=weight is not None,
                HAS_BIAS=bias is not None, RETURN_SUM=return_sum, BITS=bits, BLOCK=block_size,
                COLUMNS=tile_columns(cols, block_size), STOCHASTIC=seed is not None,
                num_warps=NUM_WARPS,
            )  # fmt: skip
    return outputs


def _layer_norm_backward_triton(
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
    grad_y = grad_y.contiguous()
    rows, cols = as_matrix(grad_y).shape
    programs = triton.cdiv(rows, block_size)
    grad = torch.empty_like(grad_y, dtype=dtype)
    grad_weight = mean.new_empty(programs, cols if needs_weight else 0)
    grad_bias = mean.new_empty(programs, cols if needs_bias else 0)
    if grad_y.numel():
        with torch.cuda.device_of(grad_y):
            _backward_kernel[(programs,)](
                grad_y, grad_y if grad_sum is None else grad_sum.contiguous(), codes, scales,
                mean, rstd, mean if weight is None else weight.contiguous(), grad, grad_weight,
                grad_bias, rows, cols, codes.shape[1],
                HAS_GRAD_SUM=grad_sum is not None, HAS_WEIGHT=weight is not None,
                NEEDS_WEIGHT=needs_weight, NEEDS_BIAS=needs_bias, BITS=bits, BLOCK=block_size,
                COLUMNS=tile_columns(cols, block_size), num_warps=NUM_WARPS,
            )  # fmt: skip
    return grad, grad_weight.sum(0), grad_bias.sum(0)


def empty_outputs(
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
    codes, scales = empty_blocks(as_matrix(x), bits=bits, block_size=block_size)
    mean = x.new_empty(codes.shape[0], dtype=torch.float32)
    y = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    sum_dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    total = x.new_empty(x.shape if return_sum else (0,), dtype=sum_dtype)
    return y, total, codes, scales, mean, torch.empty_like(mean)


def _variants() -> list[Variant]:
    shared = {"BLOCK": 32, "COLUMNS": 256}
    sizes = {"rows": "i32", "cols": "i32", "codes_stride": "i32"}
    variants = []
    for kind, bits, whole in (("fp32", 8, True), ("bf16", 8, False), ("fp16", 4, True)):
        codes = "*i8" if bits == 8 else "*u8"
        vectors = dict.fromkeys(("weight_ptr", "bias_ptr"), "*fp32")
        forward = {
            **dict.fromkeys(("x_ptr", "residual_ptr"), f"*{kind}"),
            **vectors,
            **dict.fromkeys(("y_ptr", "sum_ptr"), f"*{kind}"),
            "codes_ptr": codes,
            **dict.fromkeys(("scales_ptr", "mean_ptr", "rstd_ptr"), "*fp32"),
            **sizes,
            "eps": "fp32",
            "seed": "i64",
        }
        constants = {
            **dict.fromkeys(("HAS_RESIDUAL", "HAS_WEIGHT"), True),
            **dict.fromkeys(("HAS_BIAS", "RETURN_SUM"), whole),
            "BITS": bits,
            **shared,
            "STOCHASTIC": bits == 4,
        }
        variants.append(variant(_forward_kernel, forward, constants))
        backward = {
            **dict.fromkeys(("grad_y_ptr", "grad_sum_ptr"), f"*{kind}"),
            "codes_ptr": codes,
            **dict.fromkeys(("scales_ptr", "mean_ptr", "rstd_ptr", "weight_ptr"), "*fp32"),
            "grad_ptr": f"*{kind}",
            **dict.fromkeys(("grad_weight_ptr", "grad_bias_ptr"), "*fp32"),
            **sizes,
        }
        constants = {
            "HAS_WEIGHT": True,
            **dict.fromkeys(("HAS_GRAD_SUM", "NEEDS_WEIGHT", "NEEDS_BIAS"), whole),
            "BITS": bits,
            **shared,
        }
        variants.append(variant(_backward_kernel, backward, constants))
    return variants


COMPILED = _variants()
