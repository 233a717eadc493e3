"""The random words of Triton, and the uniform noise of its `tl.rand`, in plain PyTorch.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011): a random
number is a function of (seed, offset) alone, so that any order of work gives the same noise.
"""

from __future__ import annotations

import torch

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF

# Numbers at a time: enough for what a call of PyTorch costs, few enough for a cache.
_CHUNK = 1 << 16

# Triton's own constant: the largest fp32 whose product with 2^31 stays below 1.
_SCALE = 4.6566127342e-10


def uniform(seed: int, offsets: torch.Tensor) -> torch.Tensor:
    """What ``tl.rand(seed, offsets)`` gives, bit for bit.

    Parameters
    ----------
    seed : int
        ``0 <= seed < 2**63``.
    offsets : torch.Tensor
        int64, of any shape; taken modulo 2**32.

    Returns
    -------
    torch.Tensor
        fp32 in [0, 1), of the shape of ``offsets``.
    """
    noise = torch.empty(offsets.shape, dtype=torch.float32, device=offsets.device)
    chunks = zip(offsets.reshape(-1).split(_CHUNK), noise.view(-1).split(_CHUNK), strict=True)
    for counters, out in chunks:
        words = random_words(seed, counters)[0].to(torch.int32)
        # Folding the negative half onto the other: -w - 1 is ~w.
        torch.mul(words.bitwise_xor_(words >> 31), _SCALE, out=out)
    return noise


def random_words(seed: int, counters: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What ``tl.randint4x(seed, counters)`` gives: four tensors of int64 in [0, 2**32).

    Parameters
    ----------
    seed : int
        ``0 <= seed < 2**63``.
    counters : torch.Tensor
        int64, one dimension; taken modulo 2**32.
    """
    key0, key1 = seed & _LOW, seed >> 32
    c0 = counters & _LOW
    c1, c2, c3, product0, product2 = c0.new_zeros(5, c0.numel())
    for _ in range(_ROUNDS):
        # Products of two 32-bit numbers: int64 wraps, which leaves all 64 bits right.
        torch.mul(c0, _MULTIPLIERS[0], out=product0)
        torch.mul(c2, _MULTIPLIERS[1], out=product2)
        torch.bitwise_right_shift(product2, 32, out=c0)
        torch.bitwise_right_shift(product0, 32, out=c2)
        c0.bitwise_xor_(c1).bitwise_xor_(key0).bitwise_and_(_LOW)
        c2.bitwise_xor_(c3).bitwise_xor_(key1).bitwise_and_(_LOW)
        # The low words are these products; the mask above drops what stands over them.
        c1, product2 = product2, c1
        c3, product0 = product0, c3
        key0 = (key0 + _KEY_STEPS[0]) & _LOW
        key1 = (key1 + _KEY_STEPS[1]) & _LOW
    return c0, c1.bitwise_and_(_LOW), c2, c3.bitwise_and_(_LOW)
