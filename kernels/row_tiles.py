"""What operations share that go over a matrix in rows of blocks: tiles and launches."""

from __future__ import annotations

from typing import Any

import torch

from fedquad.kernels.language import Variant, jit, tl, triton
from fedquad.kernels.tile_memory import load_blocks, store_blocks
from fedquad.kernels.tiles import round_to

# Elements a tile, 32 a thread: on sm_90 nothing spills from registers (of LayerNorm in fp32 with
# blocks of 128, whose tiles are twice as large, 24 bytes).
_TILE = 8192
NUM_WARPS = 8


@jit
def keep_tile(
    x, codes_ptr, scales_ptr, top, left, rows, cols, codes_stride, seed,
    BITS: tl.constexpr, SIGNED: tl.constexpr, BLOCK: tl.constexpr, STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Write the blocks of x [BLOCK, C], fp32, the tile at (top, left) of a matrix [rows, cols]."""
    Q_MAX: tl.constexpr = (1 << (BITS - 1)) - 1 if SIGNED else (1 << BITS) - 1
    noise = 0.0
    if STOCHASTIC:
        r = top + tl.arange(0, x.shape[0])[:, None]
        c = left + tl.arange(0, x.shape[1])[None, :]
        noise = tl.rand(seed, r.to(tl.uint32) * cols + c.to(tl.uint32))
    scales_stride = tl.cdiv(cols, BLOCK)
    store_blocks(
        codes_ptr + top.to(tl.int64) * codes_stride + left * BITS // 8,
        scales_ptr + top // BLOCK * scales_stride + left // BLOCK,
        x, noise, rows - top, cols - left, codes_stride, scales_stride,
        BLOCK, BITS, Q_MAX, SIGNED, STOCHASTIC,
    )  # fmt: skip


@jit
def kept_tile(
    codes_ptr, scales_ptr, top, left, rows, cols, codes_stride,
    BITS: tl.constexpr, SIGNED: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The tile [BLOCK, COLUMNS] at (top, left) in fp32, rounded to the DTYPE the tensor had.

    Outside of the matrix it is 0, or NaN as the rest of the block is.
    """
    scales_stride = tl.cdiv(cols, BLOCK)
    x = load_blocks(
        codes_ptr + top.to(tl.int64) * codes_stride + left * BITS // 8,
        scales_ptr + top // BLOCK * scales_stride + left // BLOCK,
        rows - top, cols - left, codes_stride, scales_stride,
        BLOCK, COLUMNS, BLOCK, BITS, SIGNED,
    )  # fmt: skip
    return round_to(x, DTYPE)


def as_matrix(x: torch.Tensor) -> torch.Tensor:
    """x [..., N] as [.., N]."""
    return torch.atleast_2d(x).flatten(0, -2)


def tile_columns(cols: int, block_size: int) -> int:
    """Columns of a tile of one row of blocks, no more than the matrix has."""
    wanted = max(_TILE // block_size, block_size)
    return min(wanted, max(triton.next_power_of_2(cols), block_size))


def autocast_to_fp32(x: torch.Tensor) -> bool:
    """Whether autocast runs here in fp32 what it runs in fp32: it does on CUDA, not on a CPU."""
    return x.is_cuda and torch.is_autocast_enabled("cuda")


def variant(kernel: Any, signature: dict[str, str], constants: dict[str, Any]) -> Variant:
    """A specialisation as a GPU sees it for a matrix whose columns are a multiple of 32."""
    aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    return Variant(
        kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        constants,
        (*aligned, "cols", "codes_stride"),
        NUM_WARPS,
    )
