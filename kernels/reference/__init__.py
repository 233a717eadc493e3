"""What `fedquad.kernels` does, in plain PyTorch: the path on a CPU, and the truth for tests.

Imports no Triton. The stored format is set here, and the kernels follow it.
"""

from __future__ import annotations

from fedquad.kernels.reference.bits import pack_bits, unpack_bits
from fedquad.kernels.reference.blocks import (
    dequantize_blocks,
    empty_blocks,
    q_max,
    quantize_blocks,
)
from fedquad.kernels.reference.philox import uniform

__all__ = [
    "dequantize_blocks",
    "empty_blocks",
    "pack_bits",
    "q_max",
    "quantize_blocks",
    "uniform",
    "unpack_bits",
]
