"""The kernels that quantize a matrix to blocks and back, each in one pass over memory."""

from __future__ import annotations

import torch

from fedquad.kernels.language import Variant, jit, tl, triton
from fedquad.kernels.reference import empty_blocks, q_max
from fedquad.kernels.tile_memory import load_blocks, store_blocks
from fedquad.kernels.tiles import cast_to

__all__ = ["COMPILED", "_dequantize_blocks_triton", "_quantize_blocks_triton"]


@jit
def _quantize_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    rows,
    cols,
    stride_row,
    stride_col,
    codes_stride,
    scales_stride,
    seed,
    BITS: tl.constexpr,
    Q_MAX: tl.constexpr,
    SIGNED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    across = tl.cdiv(cols, COLUMNS)
    top = tl.program_id(0) // across * BLOCK
    left = tl.program_id(0) % across * COLUMNS
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows - top) & (column < cols - left)
    # 64-bit offsets throughout: of a transposed view either stride can be large.
    places = (top + row).to(tl.int64) * stride_row + (left + column).to(tl.int64) * stride_col
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    noise = 0.0
    if STOCHASTIC:
        noise = tl.rand(seed, (top + row).to(tl.uint32) * cols + (left + column).to(tl.uint32))
    store_blocks(
        codes_ptr + top.to(tl.int64) * codes_stride + left // (8 // BITS),
        scales_ptr + (top // BLOCK).to(tl.int64) * scales_stride + left // BLOCK,
        x,
        noise,
        rows - top,
        cols - left,
        codes_stride,
        scales_stride,
        BLOCK,
        BITS,
        Q_MAX,
        SIGNED,
        STOCHASTIC,
    )


@jit
def _dequantize_kernel(
    codes_ptr,
    scales_ptr,
    values_ptr,
    rows,
    cols,
    codes_stride,
    scales_stride,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    across = tl.cdiv(cols, COLUMNS)
    top = tl.program_id(0) // across * BLOCK
    left = tl.program_id(0) % across * COLUMNS
    values = load_blocks(
        codes_ptr + top.to(tl.int64) * codes_stride + left // (8 // BITS),
        scales_ptr + (top // BLOCK).to(tl.int64) * scales_stride + left // BLOCK,
        rows - top,
        cols - left,
        codes_stride,
        scales_stride,
        BLOCK,
        COLUMNS,
        BLOCK,
        BITS,
        SIGNED,
    )
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows - top) & (column < cols - left)
    corner = values_ptr + top.to(tl.int64) * cols + left
    tl.store(
        corner + row * cols + column, cast_to(values, values_ptr.dtype.element_ty), mask=inside
    )


def _tile(cols: int, block_size: int) -> tuple[int, int]:
    """Columns of a tile of one row of blocks, and the warps for it.

    Some 4096 elements, so that a thread moves 16 bytes at a time, and no more columns than the
    matrix has.
    """
    wanted = max(4096 // block_size, block_size)
    columns = max(min(wanted, 1 << (cols - 1).bit_length()), block_size)
    return columns, 8 if block_size == 128 else 4


def _quantize_blocks_triton(
    x: torch.Tensor,
    *,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
    seed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    codes, scales = empty_blocks(x, bits=bits, block_size=block_size, signed=signed)
    if x.numel():
        rows, cols = x.shape
        columns, warps = _tile(cols, block_size)
        with torch.cuda.device_of(x):
            _quantize_kernel[scales.shape[0] * triton.cdiv(cols, columns),](
                x,
                codes,
                scales,
                rows,
                cols,
                *x.stride(),
                codes.stride(0),
                scales.stride(0),
                seed or 0,
                BITS=bits,
                Q_MAX=q_max(bits, signed),
                SIGNED=signed,
                STOCHASTIC=seed is not None,
                BLOCK=block_size,
                COLUMNS=columns,
                num_warps=warps,
                # x / scale + noise with the rounding between that the reference has.
                enable_fp_fusion=False,
            )
    return codes, scales


def _dequantize_blocks_triton(
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    cols: int,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    codes, scales = codes.contiguous(), scales.contiguous()
    rows = codes.shape[0]
    values = codes.new_empty(rows, cols, dtype=dtype)
    if values.numel():
        columns, warps = _tile(cols, block_size)
        with torch.cuda.device_of(codes):
            _dequantize_kernel[scales.shape[0] * triton.cdiv(cols, columns),](
                codes,
                scales,
                values,
                rows,
                cols,
                codes.stride(0),
                scales.stride(0),
                BITS=bits,
                SIGNED=signed,
                BLOCK=block_size,
                COLUMNS=columns,
                num_warps=warps,
            )
    return values


def _variants() -> list[Variant]:
    variants = []
    for dtype, bits, signed, block_size, stochastic, transposed in (
        ("fp32", 8, True, 32, False, False),
        ("bf16", 8, True, 32, False, False),
        ("fp16", 8, False, 32, False, False),
        ("bf16", 4, True, 32, False, False),
        ("fp32", 4, False, 16, False, False),
        ("fp32", 8, True, 8, False, False),
        ("bf16", 8, True, 128, False, False),
        ("fp32", 8, True, 32, True, False),
        ("bf16", 8, True, 32, False, True),
    ):
        columns, warps = _tile(768, block_size)
        blocks = {"codes_ptr": "*i8" if bits == 8 and signed else "*u8", "scales_ptr": "*fp32"}
        sizes = {"rows": "i32", "cols": "i32", "codes_stride": "i32", "scales_stride": "i32"}
        constants = {"BITS": bits, "SIGNED": signed, "BLOCK": block_size, "COLUMNS": columns}
        signature = {"values_ptr": f"*{dtype}"} | blocks | sizes | _constant(constants)
        aligned = ("values_ptr", "codes_ptr", "rows", "cols", "codes_stride")
        variants.append(Variant(_dequantize_kernel, signature, constants, aligned, warps))

        # A stride that is 1 becomes a constant by itself.
        unit, stride = ("row", "col") if transposed else ("col", "row")
        constants = constants | {
            "Q_MAX": q_max(bits, signed),
            "STOCHASTIC": stochastic,
            f"stride_{unit}": 1,
        }
        sizes = sizes | {f"stride_{stride}": "i32", "seed": "i64"}
        signature = {"x_ptr": f"*{dtype}"} | blocks | sizes | _constant(constants)
        aligned = ("x_ptr", "codes_ptr", "rows", "cols", "codes_stride", f"stride_{stride}")
        variants.append(Variant(_quantize_kernel, signature, constants, aligned, warps))
    return variants


def _constant(constants: dict[str, object]) -> dict[str, str]:
    return dict.fromkeys(constants, "constexpr")


COMPILED = _variants()
