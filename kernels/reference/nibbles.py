"""Two codes of 4 bits in a byte, the even column low."""

from __future__ import annotations

import torch


def join_nibbles(codes: torch.Tensor, packed: torch.Tensor) -> None:
    """Write codes int8 [rows, cols], contiguous, into bytes [rows, ceil(cols / 2)]."""
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    # Both codes of a byte at once: as 16 bits, the even column is the low half.
    pairs = codes.view(torch.int16)
    high = (pairs >> 4) & 0xF0
    packed.copy_((pairs & 0xF).bitwise_or_(high))


def split_nibbles(packed: torch.Tensor, cols: int, signed: bool) -> torch.Tensor:
    """Codes int8 [rows, cols] of bytes [rows, ceil(cols / 2)]."""
    pairs = packed.to(torch.int16)
    pairs = (pairs & 0xF).bitwise_or_((pairs & 0xF0) << 4)
    codes = pairs.view(torch.int8)[:, :cols]
    return (codes ^ 8) - 8 if signed else codes
