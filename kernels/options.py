"""What every operation accepts, checked in one place."""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
BLOCK_SIZES = (8, 16, 32, 64, 128)


def require(holds: bool, field: str, value: object, accepted: object) -> None:
    """Raise ValueError with the field, its value and what is accepted, unless ``holds``."""
    if not holds:
        raise ValueError(f"{field} = {value!r} cannot be used: expected {accepted}")


def check_dtype(field: str, dtype: torch.dtype) -> None:
    """Raise ValueError for a type that cannot be kept as blocks."""
    require(dtype in FLOATS, field, dtype, "torch.float32, bfloat16 or float16")


def check_format(bits: int, block_size: int) -> None:
    """Raise ValueError for codes or blocks of another size than there are kernels for."""
    require(bits in (4, 8), "bits", bits, "4 or 8")
    require(block_size in BLOCK_SIZES, "block_size", block_size, "8, 16, 32, 64 or 128")


def check_seed(seed: int | None) -> None:
    """Raise ValueError for a seed that no kernel takes."""
    accepted = seed is None or (isinstance(seed, int) and 0 <= seed < 2**63)
    require(accepted, "seed", seed, "None or an integer from 0 to 2**63 - 1")


def check_options(x: torch.Tensor, bits: int, block_size: int, seed: int | None) -> None:
    """Raise ValueError unless x can be kept as blocks of this kind."""
    check_dtype("dtype", x.dtype)
    check_format(bits, block_size)
    check_seed(seed)


def check_blocks(
    codes: torch.Tensor, scales: torch.Tensor, cols: int, bits: int, block_size: int, signed: bool
) -> None:
    """Raise ValueError unless codes and scales belong together, of a matrix of ``cols`` columns."""
    check_format(bits, block_size)
    require(isinstance(signed, bool), "signed", signed, "True or False")
    stored = torch.int8 if bits == 8 and signed else torch.uint8
    require(codes.dtype == stored, "codes.dtype", codes.dtype, stored)
    require(scales.dtype == torch.float32, "scales.dtype", scales.dtype, torch.float32)
    require(codes.dim() == 2, "codes.shape", tuple(codes.shape), "two dimensions")
    width = cols if bits == 8 else -(-cols // 2)
    require(codes.shape[1] == width, "codes.shape", tuple(codes.shape), f"{width} columns")
    shape = (-(-codes.shape[0] // block_size), -(-cols // block_size))
    require(scales.shape == shape, "scales.shape", tuple(scales.shape), shape)
