"""Blockwise INT8 and INT4 of a matrix: the truth for the kernels, and the path on a CPU.

A matrix [rows, cols] is cut in square blocks, ragged at the edges. A block's
scale is absmax / q_max in fp32; its codes are x / scale, rounded. A block of
zeros has scale 0. A block that holds a NaN or an infinity has scale NaN, so
that all its values come back as NaN and a divergence is seen.

Work goes tile by tile, so that what lies between x and its codes stays in cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch

from fedquad.kernels.reference.nibbles import join_nibbles, split_nibbles
from fedquad.kernels.reference.philox import uniform

_Q_MAX = {(8, True): 127, (8, False): 255, (4, True): 7, (4, False): 15}

# Elements a tile: a megabyte in fp32. Smaller ones are slower by what a call of PyTorch costs,
# larger ones no longer stay in cache.
_TILE = 1 << 18

# Added to an fp32 below 2^22 it leaves room for no fraction: the sum is rounded to a whole number,
# ties to even, and its lowest byte is that number's in two's complement.
_MAGIC = 1.5 * 2.0**23

_SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal


def q_max(bits: int, signed: bool) -> int:
    """The largest code: 127 or 255 of 8 bits, 7 or 15 of 4."""
    return _Q_MAX[bits, signed]


def empty_blocks(
    x: torch.Tensor,
    *,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
    seed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a matrix, of the right shapes and dtypes, not yet computed."""
    rows, cols = x.shape
    if bits == 4:
        codes = x.new_empty((rows, -(-cols // 2)), dtype=torch.uint8)
    else:
        codes = x.new_empty((rows, cols), dtype=torch.int8 if signed else torch.uint8)
    shape = (-(-rows // block_size), -(-cols // block_size))
    return codes, x.new_empty(shape, dtype=torch.float32)


def quantize_blocks(
    x: torch.Tensor,
    *,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
    seed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales; as `fedquad.kernels.quantize_blocks`, arguments unchecked."""
    rows, cols = x.shape
    if x.stride(0) == 1 != x.stride(1) and bits == 8 and seed is None:
        # Blocks are square: transposing bytes afterwards is cheaper than reading across rows.
        codes, scales = quantize_blocks(x.t(), block_size=block_size, signed=signed)
        return codes.t().contiguous(), scales.t().contiguous()
    codes, scales = empty_blocks(x, bits=bits, block_size=block_size, signed=signed)
    # On CUDA, PyTorch divides by a tensor, and multiplies with the reciprocal of a number.
    limit = torch.full((), q_max(bits, signed), dtype=torch.float32, device=x.device)
    for top, bottom, left, right in _tiles(rows, cols, block_size):
        tile = x[top:bottom, left:right].float()
        if tile.stride(1) != 1:
            tile = tile.contiguous()
        noise = None
        if seed is not None:
            row = torch.arange(top, bottom, device=x.device).mul_(cols).add_(left)
            noise = uniform(seed, row[:, None] + torch.arange(right - left, device=x.device))
        if bits == 8:
            out = codes[top:bottom, left:right]
        else:
            out = codes.new_empty(tile.shape, dtype=torch.int8)
        tile_scales = scales[top // block_size :, left // block_size :]
        _quantize_tile(tile, out, tile_scales, limit, block_size, signed, noise)
        if bits == 4:
            join_nibbles(out, codes[top:bottom, left // 2 : -(-right // 2)])
    return codes, scales


def dequantize_blocks(
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    cols: int,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Values of codes; as `fedquad.kernels.dequantize_blocks`, arguments unchecked."""
    rows = codes.shape[0]
    values = codes.new_empty(rows, cols, dtype=dtype)
    for top, bottom, left, right in _tiles(rows, cols, block_size):
        if bits == 8:
            tile_codes = codes[top:bottom, left:right]
        else:
            packed = codes[top:bottom, left // 2 : -(-right // 2)]
            tile_codes = split_nibbles(packed, right - left, signed)
        out = values[top:bottom, left:right]
        tile = out if dtype == torch.float32 else out.new_empty(out.shape, dtype=torch.float32)
        tile.copy_(tile_codes)
        blocks = _as_block_rows(tile, block_size)
        tile_scales = scales[top // block_size :, left // block_size :]
        blocks.mul_(_spread(tile_scales, blocks.shape, block_size))
        if tile is not out:
            out.copy_(tile)
    return values


def _tiles(rows: int, cols: int, block_size: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a matrix in tiles of whole blocks; a ragged last row of blocks is a tile of its own."""
    if not cols:
        return
    width = min(cols, _TILE // block_size)
    height = max(1, _TILE // (width * block_size)) * block_size
    whole = rows - rows % block_size
    edges = [*range(0, whole, height), whole] + [rows] * (rows > whole)
    for top, bottom in pairwise(edges):
        for left in range(0, cols, width):
            yield top, bottom, left, min(left + width, cols)


def _as_block_rows(tile: torch.Tensor, block_size: int) -> torch.Tensor:
    """Rows of blocks [rows of blocks, rows in a block, columns], a view."""
    return tile.unflatten(0, (-1, min(block_size, tile.shape[0])))


def _spread(scales: torch.Tensor, shape: torch.Size, block_size: int) -> torch.Tensor:
    """Scales of blocks to one a column [rows of blocks, 1, columns]."""
    count, _, cols = shape
    scales = scales[:count, : -(-cols // block_size)]
    return scales.repeat_interleave(block_size, 1)[:, None, :cols]


def _quantize_tile(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    limit: torch.Tensor,
    block_size: int,
    signed: bool,
    noise: torch.Tensor | None,
) -> None:
    """Write codes and scales of a tile whose rows are contiguous."""
    blocks = _as_block_rows(x, block_size)
    count, _, cols = blocks.shape
    scales = scales[:count, : -(-cols // block_size)]
    work = torch.empty_like(x, memory_format=torch.contiguous_format)
    work_blocks = work.view(blocks.shape)

    torch.abs(x, out=work)
    # First down the columns, which PyTorch does with whole vectors; then little is left.
    peaks = x.new_zeros(count, scales.shape[1] * block_size)
    torch.amax(work_blocks, 1, out=peaks[:, :cols])
    torch.div(peaks.unflatten(1, (-1, block_size)).amax(2), limit, out=scales)

    lowest, highest = (bound.item() for bound in scales.aminmax())
    plain = lowest >= _SMALLEST_NORMAL and highest < math.inf  # both are NaN if any is
    divisors = scales
    if not plain:
        scales.masked_fill_(~scales.isfinite(), math.nan)
        divisors = torch.where(scales > 0, scales, math.inf)
    divisors = _spread(divisors, blocks.shape, block_size)
    if noise is None:
        torch.addcdiv(x.new_full((), _MAGIC), blocks, divisors, out=work_blocks)
    else:
        torch.div(blocks, divisors, out=work_blocks)
        work.add_(noise).floor_().clamp_(max=limit).add_(_MAGIC)
    if not plain:
        # A subnormal scale is coarse, so that absmax / scale can lie beyond the limit.
        work.nan_to_num_(_MAGIC)
        work.clamp_(max=limit + _MAGIC)
    if not (plain and signed):
        work.clamp_(min=_MAGIC - limit if signed else x.new_full((), _MAGIC))
    codes.copy_(work.view(torch.int32))
