"""How activations are stored, and the seeds of stochastic rounding."""

from __future__ import annotations

from dataclasses import dataclass

from fedquad.config import InputError, require_choice, require_int

_WORD = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """Form of the stored activations; the same for every way in.

    Attributes
    ----------
    bits : {8, 4}
        Of a code.
    block_size : int
        Side of the square blocks that share a scale: 8, 16, 32, 64 or 128.
    rounding : {"nearest", "stochastic"}
    seed : int
        Of stochastic rounding, ``0 <= seed < 2**63``.

    Raises
    ------
    InputError
        Any other value.
    """

    bits: int = 8
    block_size: int = 32
    rounding: str = "nearest"
    seed: int = 0

    def __post_init__(self) -> None:
        require_int("bits", self.bits, 4, 8)
        if self.bits not in (4, 8):
            raise InputError("bits", self.bits, "8 or 4")
        require_int("block_size", self.block_size, 8, 128)
        if self.block_size.bit_count() != 1:
            raise InputError("block_size", self.block_size, "a power of two from 8 to 128")
        require_choice("rounding", self.rounding, ("nearest", "stochastic"))
        require_int("seed", self.seed, 0, (1 << 63) - 1)

    def rounding_seed(self, forward_idx: int, pack_idx: int) -> int | None:
        """Seed of one quantization, below 2**63; None when rounding to nearest."""
        if self.rounding == "nearest":
            return None
        # Two draws that differ in one number only must not meet: each number is mixed in by itself.
        return _mix(_mix(_mix(self.seed) ^ forward_idx) ^ pack_idx) >> 1


def _mix(value: int) -> int:
    """SplitMix64 (Steele et al., 2014): every bit of the result depends on all of ``value``."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)
