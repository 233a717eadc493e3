"""One bit for each element of a mask."""

from __future__ import annotations

import torch

# Times eight bytes of 0 or 1 in a word, byte 0 lowest: byte i lands in bit i of the highest byte.
_GATHER = 0x0102040810204080


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Bytes of a mask; as `fedquad.kernels.pack_bits`, argument unchecked."""
    flat = mask.reshape(-1)
    if flat.numel() % 8 or flat.storage_offset() % 8 or flat.stride(0) != 1:
        # Words must be whole and aligned.
        padded = flat.new_zeros(flat.numel() + -flat.numel() % 8)
        padded[: flat.numel()] = flat
        flat = padded
    return (flat.view(torch.int64) * _GATHER).view(torch.uint8)[7::8].contiguous()


def unpack_bits(packed: torch.Tensor, numel: int) -> torch.Tensor:
    """A mask from its bytes; as `fedquad.kernels.unpack_bits`, arguments unchecked."""
    # A table of what each byte holds, as words of eight bools: one look-up for eight elements.
    byte = torch.arange(256, device=packed.device)[:, None]
    table = (byte >> torch.arange(8, device=packed.device) & 1).to(torch.bool).view(torch.int64)
    return table[:, 0].index_select(0, packed.to(torch.int32)).view(torch.bool)[:numel]
