"""Tiles between memory and registers, as kernels that read or write stored blocks need them.

Pointers point at a tile's corner, ``rows`` and ``columns`` count what is left of the matrix from
there. Offsets inside a tile are 32-bit, whatever the tensor's size.
"""

from __future__ import annotations

from fedquad.kernels.language import jit, tl
from fedquad.kernels.tiles import join_nibbles, split_nibbles, tile_codes, tile_scales, tile_values


@jit
def load_tile(
    pointer, rows, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):
    """[ROWS, COLUMNS] of a matrix of WIDTH <= COLUMNS columns; 0 outside."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = row < rows
    if WIDTH < COLUMNS:
        inside = inside & (column < WIDTH)
    return tl.load(pointer + row * stride + column, mask=inside, other=0.0)


@jit
def store_tile(
    pointer, x, rows, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):
    """Write [ROWS, COLUMNS] to a matrix of WIDTH <= COLUMNS columns, in its number type."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = row < rows
    if WIDTH < COLUMNS:
        inside = inside & (column < WIDTH)
    tl.store(pointer + row * stride + column, x.to(pointer.dtype.element_ty), mask=inside)


@jit
def load_codes(
    pointer,
    rows,
    columns,
    stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    """Codes [ROWS, COLUMNS], 0 outside; ``stride`` in bytes."""
    row = tl.arange(0, ROWS)[:, None]
    if BITS == 8:
        column = tl.arange(0, COLUMNS)[None, :]
        inside = (row < rows) & (column < columns)
        codes = tl.load(pointer + row * stride + column, mask=inside, other=0)
    else:
        pair = tl.arange(0, COLUMNS // 2)[None, :]
        inside = (row < rows) & (pair < columns - columns // 2)
        codes = split_nibbles(tl.load(pointer + row * stride + pair, mask=inside, other=0), SIGNED)
    return codes


@jit
def load_blocks(
    codes_ptr,
    scales_ptr,
    rows,
    columns,
    codes_stride,
    scales_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    """fp32 values of a tile of whole blocks, 0 outside."""
    codes = load_codes(codes_ptr, rows, columns, codes_stride, ROWS, COLUMNS, BITS, SIGNED)
    row = tl.arange(0, ROWS // BLOCK)[:, None]
    column = tl.arange(0, COLUMNS // BLOCK)[None, :]
    inside = (row * BLOCK < rows) & (column * BLOCK < columns)
    scales = tl.load(scales_ptr + row * scales_stride + column, mask=inside, other=0.0)
    return tile_values(codes, scales, BLOCK)


@jit
def store_blocks(
    codes_ptr,
    scales_ptr,
    x,
    noise,
    rows,
    columns,
    codes_stride,
    scales_stride,
    BLOCK: tl.constexpr,
    BITS: tl.constexpr,
    Q_MAX: tl.constexpr,
    SIGNED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):
    """Write a tile of whole blocks as codes and scales; x is fp32 and 0 outside the matrix."""
    ROWS: tl.constexpr = x.shape[0]
    COLUMNS: tl.constexpr = x.shape[1]
    scales = tile_scales(x, Q_MAX, BLOCK)
    codes = tile_codes(x, scales, noise, Q_MAX, SIGNED, BLOCK, STOCHASTIC)
    row = tl.arange(0, ROWS)[:, None]
    if BITS == 8:
        column = tl.arange(0, COLUMNS)[None, :]
        inside = (row < rows) & (column < columns)
        # Whole numbers in fp32: with 1.5 * 2^23 added, the lowest byte is the code.
        stored = (codes + 12582912.0).to(tl.int32, bitcast=True).to(codes_ptr.dtype.element_ty)
    else:
        column = tl.arange(0, COLUMNS // 2)[None, :]
        inside = (row < rows) & (column < columns - columns // 2)
        stored = join_nibbles(codes)
    tl.store(codes_ptr + row * codes_stride + column, stored, mask=inside)
    row = tl.arange(0, ROWS // BLOCK)[:, None]
    column = tl.arange(0, COLUMNS // BLOCK)[None, :]
    inside = (row * BLOCK < rows) & (column * BLOCK < columns)
    tl.store(scales_ptr + row * scales_stride + column, scales, mask=inside)
