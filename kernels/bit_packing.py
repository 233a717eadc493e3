"""A mask at one bit an element, and back."""

from __future__ import annotations

import torch

from fedquad.kernels import reference
from fedquad.kernels.language import Variant, jit, tl, triton

__all__ = ["COMPILED", "pack_bits", "unpack_bits"]

# Packed bytes a program: 8 a thread of 4 warps, so that they too are written with whole vectors.
_BYTES = 1024


@jit
def _pack_kernel(mask_ptr, packed_ptr, numel, num_bytes, BYTES: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BYTES
    # Rows of 16 elements, what a thread loads at once.
    element = tl.arange(0, BYTES // 2)[:, None] * 16 + tl.arange(0, 16)[None, :]
    bits = tl.load(mask_ptr + first * 8 + element, mask=element < numel - first * 8, other=0)
    bits = tl.reshape(bits.to(tl.int32), [BYTES, 8]) << tl.arange(0, 8)[None, :]
    byte = tl.arange(0, BYTES)
    packed = tl.sum(bits, axis=1).to(tl.uint8)
    tl.store(packed_ptr + first + byte, packed, mask=byte < num_bytes - first)


@jit
def _unpack_kernel(packed_ptr, mask_ptr, numel, num_bytes, BYTES: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BYTES
    byte = tl.arange(0, BYTES)
    packed = tl.load(packed_ptr + first + byte, mask=byte < num_bytes - first, other=0)
    bits = (packed.to(tl.int32)[:, None] >> tl.arange(0, 8)[None, :]) & 1
    element = tl.arange(0, BYTES // 2)[:, None] * 16 + tl.arange(0, 16)[None, :]
    bits = tl.reshape(bits, [BYTES // 2, 16]).to(tl.uint8)
    tl.store(mask_ptr + first * 8 + element, bits, mask=element < numel - first * 8)


def _pack_bits_triton(mask: torch.Tensor) -> torch.Tensor:
    packed = _empty_packed(mask)
    if mask.numel():
        with torch.cuda.device_of(mask):
            _pack_kernel[triton.cdiv(packed.numel(), _BYTES),](
                mask.contiguous().view(torch.uint8),
                packed,
                mask.numel(),
                packed.numel(),
                BYTES=_BYTES,
            )
    return packed


def _unpack_bits_triton(packed: torch.Tensor, numel: int) -> torch.Tensor:
    mask = _empty_mask(packed, numel)
    if numel:
        with torch.cuda.device_of(packed):
            _unpack_kernel[triton.cdiv(packed.numel(), _BYTES),](
                packed.contiguous(),
                mask.view(torch.uint8),
                numel,
                packed.numel(),
                BYTES=_BYTES,
            )
    return mask


def _empty_packed(mask: torch.Tensor) -> torch.Tensor:
    return mask.new_empty(-(-mask.numel() // 8), dtype=torch.uint8)


def _empty_mask(packed: torch.Tensor, numel: int) -> torch.Tensor:
    return packed.new_empty(numel, dtype=torch.bool)


_pack = torch.library.custom_op(
    "fedquad::pack_bits", reference.pack_bits, mutates_args=(), device_types="cpu"
)
_pack.register_kernel("cuda")(_pack_bits_triton)
_pack.register_fake(_empty_packed)

_unpack = torch.library.custom_op(
    "fedquad::unpack_bits", reference.unpack_bits, mutates_args=(), device_types="cpu"
)
_unpack.register_kernel("cuda")(_unpack_bits_triton)
_unpack.register_fake(_empty_mask)


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Eight elements of a mask in a byte.

    Parameters
    ----------
    mask : torch.Tensor
        bool, of any shape, contiguous or not.

    Returns
    -------
    torch.Tensor
        uint8 [ceil(numel / 8)]: element i of the flattened mask is bit i % 8 of byte i // 8,
        and the bits left over are 0.

    Raises
    ------
    ValueError
        The mask is not bool.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask.dtype = {mask.dtype} cannot be used: expected torch.bool")
    return _pack(mask)


def unpack_bits(packed: torch.Tensor, numel: int) -> torch.Tensor:
    """The mask that `pack_bits` packed, flat.

    Parameters
    ----------
    packed : torch.Tensor
        uint8 [ceil(numel / 8)].
    numel : int
        Elements of the mask.

    Returns
    -------
    torch.Tensor
        bool [numel].

    Raises
    ------
    ValueError
        The bytes are not those of so many elements.
    """
    if packed.dtype != torch.uint8:
        raise ValueError(f"packed.dtype = {packed.dtype} cannot be used: expected torch.uint8")
    if packed.shape != (-(-numel // 8),):
        raise ValueError(
            f"packed.shape = {tuple(packed.shape)} cannot be used: "
            f"expected ({-(-numel // 8)},) for {numel} elements"
        )
    return _unpack(packed, numel)


def _variants() -> list[Variant]:
    variants = []
    for kernel in (_pack_kernel, _unpack_kernel):
        sizes = {"numel": "i32", "num_bytes": "i32", "BYTES": "constexpr"}
        signature = {"mask_ptr": "*u8", "packed_ptr": "*u8"} | sizes
        aligned = ("mask_ptr", "packed_ptr", "numel", "num_bytes")
        variants.append(Variant(kernel, signature, {"BYTES": _BYTES}, aligned))
    return variants


COMPILED = _variants()
