"""Quantize a matrix to INT8 or INT4 blocks and back."""

from __future__ import annotations

import torch

from fedquad.kernels import reference
from fedquad.kernels.block_kernels import _dequantize_blocks_triton, _quantize_blocks_triton
from fedquad.kernels.options import (
    check_blocks,
    check_dtype,
    check_format,
    check_seed,
    require,
)

__all__ = ["dequantize_blocks", "quantize_blocks"]

_quantize = torch.library.custom_op(
    "fedquad::quantize_blocks", reference.quantize_blocks, mutates_args=(), device_types="cpu"
)
_quantize.register_kernel("cuda")(_quantize_blocks_triton)
_quantize.register_fake(reference.empty_blocks)

_dequantize = torch.library.custom_op(
    "fedquad::dequantize_blocks", reference.dequantize_blocks, mutates_args=(), device_types="cpu"
)
_dequantize.register_kernel("cuda")(_dequantize_blocks_triton)


@_dequantize.register_fake
def _(codes, scales, *, cols, bits=8, block_size=32, signed=True, dtype=torch.float32):
    return codes.new_empty((codes.shape[0], cols), dtype=dtype)


def quantize_blocks(
    x2d: torch.Tensor,
    *,
    bits: int = 8,
    block_size: int = 32,
    signed: bool = True,
    seed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of a matrix and one scale for each square block of it.

    Parameters
    ----------
    x2d : torch.Tensor
        (rows, cols), fp32, bf16 or fp16, with any strides.
    bits : {8, 4}
        Of a code.
    block_size : {32, 8, 16, 64, 128}
        Rows and columns of a block; the last ones may have fewer.
    signed : bool
        Codes from -q_max to q_max = 127 (7 for 4 bits), or from 0 to 255 (15), where what is
        negative becomes 0.
    seed : int, optional
        Round stochastically, with the noise that ``tl.rand(seed, row * cols + col)`` gives,
        ``0 <= seed < 2**63``; to nearest, ties to even, where it is None.

    Returns
    -------
    codes : torch.Tensor
        int8 or, unsigned, uint8 (rows, cols). Of 4 bits: uint8 (rows, ceil(cols / 2)), the even
        column in the low nibble.
    scales : torch.Tensor
        fp32 (ceil(rows / block_size), ceil(cols / block_size)): absmax / q_max. 0 where all is
        zero or the quotient underflows; NaN where not all is finite, with codes 0.

    Neither carries a gradient.

    Raises
    ------
    ValueError
        For a tensor or an option that is not one of these.
    """
    require(x2d.dim() == 2, "x2d.shape", tuple(x2d.shape), "(rows, cols)")
    check_dtype("x2d.dtype", x2d.dtype)
    check_format(bits, block_size)
    check_seed(seed)
    require(isinstance(signed, bool), "signed", signed, "True or False")
    return _quantize(x2d.detach(), bits=bits, block_size=block_size, signed=signed, seed=seed)


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
    """The matrix that codes and scales stand for: code * scale in fp32, then cast.

    Parameters
    ----------
    codes, scales : torch.Tensor
        As `quantize_blocks` gives them.
    cols : int
        Columns of the matrix, which packed codes of 4 bits do not tell.
    bits, block_size, signed
        As they were quantized.
    dtype : torch.dtype
        fp32, bf16 or fp16.

    Returns
    -------
    torch.Tensor
        (rows, cols), contiguous, without a gradient.

    Raises
    ------
    ValueError
        Where these do not belong together.
    """
    check_dtype("dtype", dtype)
    check_blocks(codes, scales, cols, bits, block_size, signed)
    return _dequantize(
        codes.detach(),
        scales.detach(),
        cols=cols,
        bits=bits,
        block_size=block_size,
        signed=signed,
        dtype=dtype,
    )
