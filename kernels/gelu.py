"""GELU that keeps its input as INT8 or INT4 blocks: one pass forward, one backward."""

from __future__ import annotations

import torch

from fedquad.kernels.language import Variant, jit, tl, triton
from fedquad.kernels.options import check_options
from fedquad.kernels.reference.blocks import empty_blocks
from fedquad.kernels.reference.gelu import gelu_backward, gelu_forward
from fedquad.kernels.row_tiles import (
    NUM_WARPS,
    as_matrix,
    keep_tile,
    kept_tile,
    tile_columns,
    variant,
)
from fedquad.kernels.tiles import round_to

__all__ = ["COMPILED", "gelu"]


@jit
def _gate(x, TANH: tl.constexpr):
    """Phi(x), what GELU multiplies x with, and its derivative."""
    if TANH:
        # (1 + tanh(u)) / 2 is the logistic function of 2 u, which needs no libdevice.
        slope = 1.5957691216057308  # 2 * sqrt(2 / pi)
        twice = slope * (x + 0.044715 * x * x * x)
        small = tl.exp(-tl.abs(twice))
        gate = tl.where(twice < 0, small, 1.0) / (1.0 + small)
        derivative = small / ((1.0 + small) * (1.0 + small))
        derivative *= slope * (1.0 + 3 * 0.044715 * x * x)
    else:
        gate = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        derivative = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return gate, derivative


@jit
def _forward_kernel(
    x_ptr, y_ptr, codes_ptr, scales_ptr, rows, cols, codes_stride, seed,
    TANH: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(cols, COLUMNS)
    top = tl.program_id(0) // across * BLOCK
    left = tl.program_id(0) % across * COLUMNS
    r = top + tl.arange(0, BLOCK)[:, None]
    c = left + tl.arange(0, COLUMNS)[None, :]
    inside = (r < rows) & (c < cols)
    places = r.to(tl.int64) * cols + c
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    gate, _ = _gate(x, TANH)
    tl.store(y_ptr + places, round_to(x * gate, y_ptr.dtype.element_ty), mask=inside)
    keep_tile(
        x, codes_ptr, scales_ptr, top, left, rows, cols, codes_stride, seed,
        BITS, True, BLOCK, STOCHASTIC,
    )  # fmt: skip


@jit
def _backward_kernel(
    grad_y_ptr, codes_ptr, scales_ptr, grad_x_ptr, rows, cols, codes_stride,
    TANH: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(cols, COLUMNS)
    top = tl.program_id(0) // across * BLOCK
    left = tl.program_id(0) % across * COLUMNS
    r = top + tl.arange(0, BLOCK)[:, None]
    c = left + tl.arange(0, COLUMNS)[None, :]
    inside = (r < rows) & (c < cols)
    places = r.to(tl.int64) * cols + c
    grad_y = tl.load(grad_y_ptr + places, mask=inside, other=0.0).to(tl.float32)
    x = kept_tile(
        codes_ptr, scales_ptr, top, left, rows, cols, codes_stride,
        BITS, True, BLOCK, COLUMNS, grad_x_ptr.dtype.element_ty,
    )  # fmt: skip
    gate, derivative = _gate(x, TANH)
    grad_x = grad_y * (gate + x * derivative)
    tl.store(grad_x_ptr + places, round_to(grad_x, grad_x_ptr.dtype.element_ty), mask=inside)


def _gelu_triton(
    x: torch.Tensor, approximate: str, bits: int, block_size: int, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = x.contiguous()
    rows, cols = as_matrix(x).shape
    y, codes, scales = _empty_outputs(x, approximate, bits, block_size, seed)
    if x.numel():
        columns = tile_columns(cols, block_size)
        programs = triton.cdiv(rows, block_size) * triton.cdiv(cols, columns)
        with torch.cuda.device_of(x):
            _forward_kernel[(programs,)](
                x, y, codes, scales, rows, cols, codes.shape[1], seed or 0,
                TANH=approximate == "tanh", BITS=bits, BLOCK=block_size, COLUMNS=columns,
                STOCHASTIC=seed is not None, num_warps=NUM_WARPS,
            )  # fmt: skip
    return y, codes, scales


def _gelu_backward_triton(
    grad_y: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    approximate: str,
    bits: int,
    block_size: int,
) -> torch.Tensor:
    grad_y = grad_y.contiguous()
    rows, cols = as_matrix(grad_y).shape
    grad_x = torch.empty_like(grad_y)
    if grad_y.numel():
        columns = tile_columns(cols, block_size)
        programs = triton.cdiv(rows, block_size) * triton.cdiv(cols, columns)
        with torch.cuda.device_of(grad_y):
            _backward_kernel[(programs,)](
                grad_y, codes, scales, grad_x, rows, cols, codes.shape[1],
                TANH=approximate == "tanh", BITS=bits, BLOCK=block_size, COLUMNS=columns,
                num_warps=NUM_WARPS,
            )  # fmt: skip
    return grad_x


def _empty_outputs(
    x: torch.Tensor, approximate: str, bits: int, block_size: int, seed: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, *empty_blocks(as_matrix(x), bits=bits, block_size=block_size)


_forward = torch.library.custom_op(
    "fedquad::gelu", gelu_forward, mutates_args=(), device_types="cpu"
)
_forward.register_kernel("cuda")(_gelu_triton)
_forward.register_fake(_empty_outputs)

_backward = torch.library.custom_op(
    "fedquad::gelu_backward", gelu_backward, mutates_args=(), device_types="cpu"
)
_backward.register_kernel("cuda")(_gelu_backward_triton)


@_backward.register_fake
def _(grad_y, codes, scales, approximate, bits, block_size):
    return torch.empty_like(grad_y, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output):
    _, ctx.approximate, ctx.bits, ctx.block_size, _ = inputs
    _, codes, scales = output
    ctx.save_for_backward(codes, scales)
    ctx.mark_non_differentiable(codes, scales)
    ctx.set_materialize_grads(False)  # or zeros are made for the codes


def _differentiate(ctx, grad_y, _grad_codes, _grad_scales):
    if grad_y is None:
        return None, None, None, None, None
    grad_x = _backward(grad_y, *ctx.saved_tensors, ctx.approximate, ctx.bits, ctx.block_size)
    return grad_x, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def gelu(
    x: torch.Tensor,
    *,
    approximate: str = "none",
    bits: int = 8,
    block_size: int = 32,
    seed: int | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.gelu`, keeping x for backward as quantized blocks only.

    Parameters
    ----------
    x : torch.Tensor
        (..., N), fp32, bf16 or fp16.
    approximate : {"none", "tanh"}
        The exact form with erf, or the one with tanh.
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
        (..., N), contiguous. Its gradient is that of PyTorch's GELU at the dequantized x. Where no
        gradient is needed nothing is kept, and PyTorch's GELU runs.

    Raises
    ------
    ValueError
        For a dtype or an option that is not one of these.
    """
    check_options(x, bits, block_size, seed)
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate = {approximate!r} cannot be used: expected 'none' or 'tanh'")
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.nn.functional.gelu(x, approximate=approximate)
    return _forward(x, approximate, bits, block_size, seed)[0]


def _variants() -> list[Variant]:
    sizes = {"rows": "i32", "cols": "i32", "codes_stride": "i32"}
    variants = []
    for kind, bits in (("fp32", 8), ("bf16", 8), ("fp16", 4)):
        codes = {"codes_ptr": "*i8" if bits == 8 else "*u8", "scales_ptr": "*fp32"}
        shared = {"TANH": kind == "bf16", "BITS": bits, "BLOCK": 32, "COLUMNS": 256}
        forward = {"x_ptr": f"*{kind}", "y_ptr": f"*{kind}", **codes, **sizes, "seed": "i64"}
        backward = {"grad_y_ptr": f"*{kind}", **codes, "grad_x_ptr": f"*{kind}", **sizes}
        variants.append(variant(_forward_kernel, forward, shared | {"STOCHASTIC": bits == 4}))
        variants.append(variant(_backward_kernel, backward, shared))
    return variants


COMPILED = _variants()
