"""What all kernels share: blocks of a tile in registers, to codes and back.

A tile is [R, C] in fp32, R and C multiples of the block size; elements outside
the matrix are 0. The format is that of `fedquad.kernels.reference`, bit for bit.
"""

from __future__ import annotations

from fedquad.kernels.language import has_triton, jit, tl, triton

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret) if has_triton() else None

# Adding and subtracting 1.5 * 2^23 rounds an fp32 below 2^22 to the nearest integer, ties to
# even: no conversion instruction, and no libdevice, which the interpreter lacks.


@jit
def tile_scales(x, Q_MAX: tl.constexpr, BLOCK: tl.constexpr):
    """Scales [R // BLOCK, C // BLOCK] of a tile: absmax / Q_MAX, NaN where not all is finite."""
    rows: tl.constexpr = x.shape[0] // BLOCK
    columns: tl.constexpr = x.shape[1] // BLOCK
    largest: tl.constexpr = 3.4028234663852886e38
    magnitude = tl.abs(x)
    # A comparison with NaN is false, so that NaN becomes infinity: reductions may drop NaN.
    magnitude = tl.where(magnitude <= largest, magnitude, float("inf"))
    blocks = tl.reshape(magnitude, [rows, BLOCK, columns, BLOCK])
    peak = tl.max(tl.max(blocks, axis=3), axis=1)
    return tl.where(peak <= largest, tl.div_rn(peak, float(Q_MAX)), float("nan"))


@jit
def spread_scales(scales, BLOCK: tl.constexpr):
    """Scales [r, c] of blocks to one an element [r * BLOCK, c * BLOCK]."""
    rows: tl.constexpr = scales.shape[0]
    columns: tl.constexpr = scales.shape[1]
    spread = tl.broadcast_to(
        tl.expand_dims(tl.expand_dims(scales, 1), 3), [rows, BLOCK, columns, BLOCK]
    )
    return tl.reshape(spread, [rows * BLOCK, columns * BLOCK])


@jit
def tile_codes(
    x,
    scales,
    noise,
    Q_MAX: tl.constexpr,
    SIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):
    """Codes of a tile, whole numbers in fp32; ``noise`` in [0, 1) is added if STOCHASTIC."""
    magic: tl.constexpr = 12582912.0
    spread = spread_scales(scales, BLOCK)
    # Blocks of zeros, and those that are not finite (scale NaN), get code 0.
    usable = spread > 0.0
    ratio = tl.where(usable, tl.div_rn(x, tl.where(usable, spread, 1.0)), 0.0)
    if STOCHASTIC:
        codes = tl.floor(ratio + noise)
    else:
        codes = (ratio + magic) - magic
    lowest: tl.constexpr = -Q_MAX if SIGNED else 0
    # A scale that is subnormal is coarse, so that absmax / scale can lie beyond Q_MAX.
    return tl.minimum(tl.maximum(codes, float(lowest)), float(Q_MAX))


@jit
def tile_values(codes, scales, BLOCK: tl.constexpr):
    """fp32 values [R, C] of codes (any number type) and their blocks' scales."""
    return codes.to(tl.float32) * spread_scales(scales, BLOCK)


@jit
def join_nibbles(codes):
    """Codes [R, C] of 4 bits in fp32 to bytes [R, C // 2], the even column low."""
    rows: tl.constexpr = codes.shape[0]
    columns: tl.constexpr = codes.shape[1]
    whole = codes.to(tl.int32) & 0xF
    low, high = tl.split(tl.reshape(whole, [rows, columns // 2, 2]))
    return (low | (high << 4)).to(tl.uint8)


@jit
def split_nibbles(packed, SIGNED: tl.constexpr):
    """Bytes [R, C // 2] to codes [R, C] of 4 bits, as int32."""
    rows: tl.constexpr = packed.shape[0]
    half: tl.constexpr = packed.shape[1]
    whole = packed.to(tl.int32)
    codes = tl.reshape(tl.join(whole & 0xF, (whole >> 4) & 0xF), [rows, half * 2])
    if SIGNED:
        codes = tl.where(codes > 7, codes - 16, codes)
    return codes


@jit
def _bf16_bits(x):
    """The 16 bits of x in bf16, rounded to nearest, ties to even; of NaN the quiet one only."""
    bits = x.to(tl.uint32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@jit
def cast_to(x, DTYPE: tl.constexpr):
    """An fp32 tile in DTYPE, as a GPU casts it: the interpreter's cast to bf16 truncates."""
    if _INTERPRETED and tl.bfloat16 == DTYPE:
        x = _bf16_bits(x).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        x = x.to(DTYPE)
    return x


@jit
def round_to(x, DTYPE: tl.constexpr):
    """An fp32 tile rounded to the numbers that DTYPE has, in fp32."""
    if _INTERPRETED and tl.bfloat16 == DTYPE:
        x = tl.where(x == x, (_bf16_bits(x) << 16).to(tl.float32, bitcast=True), x)
    else:
        x = x.to(DTYPE).to(tl.float32)
    return x
