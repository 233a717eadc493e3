"""A linear map that keeps codes in place of its input, and its weight's gradient out of them.

Made for LoRA's A, of 8 to 64 rows: its gradient u^T x reads a byte for each element of x.
"""

from __future__ import annotations

import torch

from fedquad.kernels.language import Variant, has_triton, jit, tl, triton
from fedquad.kernels.options import check_blocks, check_options, require
from fedquad.kernels.precision import product_precision
from fedquad.kernels.reference import lora as reference
from fedquad.kernels.tile_memory import load_blocks

__all__ = ["COMPILED", "lora_weight_grad", "quantized_linear"]

# Programs for which the rows are split where one for each tile of the result would be few. Fixed,
# so that the order of a sum depends on its sizes alone.
_PROGRAMS = 512


@jit
def _weight_gradient_kernel(
    u_ptr,
    codes_ptr,
    scales_ptr,
    partial_ptr,
    rows,
    outs,
    cols,
    u_row,
    codes_row,
    rows_a_split,
    OUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One tile [OUTS, COLUMNS] of u^T x, summed over the rows of one split."""
    left = tl.program_id(0) * COLUMNS
    first_out = tl.program_id(1) * OUTS
    start = tl.program_id(2) * rows_a_split
    stop = tl.minimum(start + rows_a_split, rows)
    row = tl.arange(0, ROWS)[:, None]
    out = tl.arange(0, OUTS)[None, :]
    scales_row = tl.cdiv(cols, BLOCK)
    total = tl.zeros([OUTS, COLUMNS], tl.float32)
    for top in tl.range(start, stop, ROWS, num_stages=STAGES):
        inside = (row < stop - top) & (out < outs - first_out)
        corner = u_ptr + tl.cast(top, tl.int64) * u_row + first_out
        u = tl.load(corner + row * u_row + out, mask=inside, other=0.0)
        x = load_blocks(
            codes_ptr + tl.cast(top, tl.int64) * codes_row + left // (8 // BITS),
            scales_ptr + (top // BLOCK) * scales_row + left // BLOCK,
            stop - top,
            cols - left,
            codes_row,
            scales_row,
            ROWS,
            COLUMNS,
            BLOCK,
            BITS,
            SIGNED,
        )
        total = tl.dot(tl.trans(u), x.to(u.dtype), total, input_precision=PRECISION)
    out = first_out + tl.arange(0, OUTS)[:, None]
    column = left + tl.arange(0, COLUMNS)[None, :]
    corner = partial_ptr + tl.program_id(2).to(tl.int64) * outs * cols
    inside = (out < outs) & (column < cols)
    tl.store(corner + out.to(tl.int64) * cols + column, total, mask=inside)


def _weight_gradient_triton(
    u: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    cols: int,
    bits: int,
    block_size: int,
    signed: bool,
) -> torch.Tensor:
    u = u if u.stride(1) == 1 else u.contiguous()
    rows, outs = u.shape
    precision = product_precision(u)
    tile = _tile(outs, block_size)
    grid = (triton.cdiv(cols, tile["COLUMNS"]), triton.cdiv(outs, tile["OUTS"]))
    steps = triton.cdiv(rows, tile["ROWS"])
    steps_a_split = triton.cdiv(steps, max(1, _PROGRAMS // (grid[0] * grid[1])))
    splits = triton.cdiv(steps, max(1, steps_a_split))
    partial = u.new_empty((splits, outs, cols), dtype=torch.float32)
    if partial.numel():
        with torch.cuda.device_of(u):
            _weight_gradient_kernel[(*grid, splits)](
                u,
                codes,
                scales,
                partial,
                rows,
                outs,
                cols,
                u.stride(0),
                codes.stride(0),
                steps_a_split * tile["ROWS"],
                **tile,
                BLOCK=block_size,
                BITS=bits,
                SIGNED=signed,
                PRECISION=precision,
            )
    return partial.sum(0).to(u.dtype)


def _tile(outs: int, block_size: int) -> dict[str, int]:
    return {
        "OUTS": min(64, max(16, triton.next_power_of_2(outs))),
        "ROWS": max(64, block_size),
        "COLUMNS": 128,
        "STAGES": 1,
        "num_warps": 4,
    }


_weight_gradient = torch.library.custom_op(
    "fedquad::lora_weight_grad", reference.lora_weight_grad, mutates_args=(), device_types="cpu"
)
_weight_gradient.register_kernel("cuda")(_weight_gradient_triton)


@_weight_gradient.register_fake
def _(u, codes, scales, cols, bits, block_size, signed):
    return u.new_empty((u.shape[1], cols))


def lora_weight_grad(
    u: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    cols: int,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
) -> torch.Tensor:
    """u^T x of an x that is kept as blocks, dequantized a tile at a time.

    Parameters
    ----------
    u : torch.Tensor
        (T, r), fp32, bf16 or fp16: the gradient of what the weight gave.
    codes, scales : torch.Tensor
        x (T, cols), as `fedquad.kernels.quantize_blocks` gives them.
    cols : int
        Columns of x, which packed codes of 4 bits do not tell.
    bits, block_size, signed
        As x was quantized.

    Returns
    -------
    torch.Tensor
        (r, cols) in the dtype of u; x is rounded to that dtype, sums are in fp32, always in the
        same order.

    Raises
    ------
    ValueError
        Where these do not belong together.
    """
    _check_blocks(u, codes, scales, cols, bits, block_size, signed)
    return _weight_gradient(u, codes, scales, cols, bits, block_size, signed)


@torch.library.custom_op("fedquad::quantized_linear", mutates_args=())
def _linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    block_size: int,
    signed: bool,
) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.linear(x, weight)


@_linear.register_fake
def _(x, weight, codes, scales, bits, block_size, signed):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _setup_context(ctx, inputs, output):
    _, weight, codes, scales, *ctx.format = inputs
    ctx.save_for_backward(weight, codes, scales)


def _differentiate(ctx, y_grad):
    weight, codes, scales = ctx.saved_tensors
    x_grad = weight_grad = None
    with torch.autocast(y_grad.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            x_grad = y_grad @ weight
        if ctx.needs_input_grad[1]:
            u = y_grad.flatten(0, -2)
            weight_grad = _weight_gradient(u, codes, scales, weight.shape[1], *ctx.format)
    return x_grad, weight_grad, None, None, None, None, None


_linear.register_autograd(_differentiate, setup_context=_setup_context)


def quantized_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
) -> torch.Tensor:
    """``x @ weight.T``, keeping for the weight's gradient the blocks given in place of x.

    Parameters
    ----------
    x : torch.Tensor
        (..., cols), fp32, bf16 or fp16.
    weight : torch.Tensor
        (r, cols).
    codes, scales : torch.Tensor
        x as a matrix (T, cols), as `fedquad.kernels.quantize_blocks` gives them: made once for
        all the linear maps that take x.
    bits, block_size, signed
        As x was quantized.

    Returns
    -------
    torch.Tensor
        (..., r). The gradient for x is exact; that for the weight is exact at the dequantized x.

    Raises
    ------
    ValueError
        Where these do not belong together.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(
            f"shapes of x and weight = {shapes} cannot be used: expected (..., cols) and (r, cols)"
        )
    _check_blocks(x.flatten(0, -2), codes, scales, x.shape[-1], bits, block_size, signed)
    return _linear(x, weight, codes, scales, bits, block_size, signed)


def _check_blocks(
    u: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    cols: int,
    bits: int,
    block_size: int,
    signed: bool,
) -> None:
    """Raise ValueError unless these are blocks (T, cols), and u has as many rows."""
    check_options(u, bits, block_size, None)
    rows = u.shape[:1]
    require(codes.shape[:1] == rows, "codes.shape", tuple(codes.shape), f"{rows[0]} rows")
    check_blocks(codes, scales, cols, bits, block_size, signed)


def _variants() -> list[Variant]:
    pointers = {"codes_ptr": "*i8", "scales_ptr": "*fp32", "partial_ptr": "*fp32"}
    names = ("rows", "outs", "cols", "u_row", "codes_row", "rows_a_split")
    variants = []
    for kind, outs in (("fp32", 16), ("bf16", 16), ("bf16", 64)):
        tile = _tile(outs, 32)
        warps = tile.pop("num_warps")
        constants = tile | {
            "BLOCK": 32,
            "BITS": 8,
            "SIGNED": True,
            "PRECISION": "tf32" if kind == "fp32" else "ieee",
        }
        signature = {"u_ptr": f"*{kind}", **pointers, **dict.fromkeys(names, "i32")}
        aligned = (*pointers, "u_ptr", "outs", "cols", "u_row", "codes_row", "rows_a_split")
        signature |= dict.fromkeys(constants, "constexpr")
        variants.append(Variant(_weight_gradient_kernel, signature, constants, aligned, warps))
    return variants


COMPILED = _variants() if has_triton() else []
