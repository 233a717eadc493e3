"""The dropout mask of attention: a function of a seed and the element, so that none is kept.

Philox gives four words a counter. Each serves four elements of a head's matrix: (row, column) takes
word ``row // 8 % 2 * 2 + column // 8 % 2`` of a counter that its partners 8 rows and 8 columns away
share. Such four lie in one thread's registers, of a tile and of its transpose, in the fragments
that the matrix units of GPUs make; the kernels need not exchange words.
"""

from __future__ import annotations

import torch

from fedquad.kernels.reference.philox import random_words

__all__ = ["drop_threshold", "dropout_keep"]


def drop_threshold(dropout_p: float) -> int:
    """An element is dropped where the upper 31 bits of its word are below this number."""
    return round(dropout_p * 2**31)


def dropout_keep(
    seed: int, shape: tuple[int, int, int, int], dropout_p: float, device: torch.device | str
) -> torch.Tensor:
    """Which elements of the attention probabilities stay.

    Parameters
    ----------
    seed : int
        ``0 <= seed < 2**63``.
    shape : tuple of int
        (batch, heads, S, T).
    dropout_p : float
        ``0 <= dropout_p < 1``.
    device : torch.device or str

    Returns
    -------
    torch.Tensor
        bool, of ``shape``.
    """
    batch, heads, rows, columns = shape
    down, across = -(-rows // 16), -(-columns // 16)
    counters = torch.arange(batch * heads * down * 8 * across * 8, device=device)
    words = torch.stack(random_words(seed, counters), dim=-1) >> 1
    keep = (words >= drop_threshold(dropout_p)).view(-1, down, 8, across, 8, 2, 2)
    keep = keep.permute(0, 1, 5, 2, 3, 6, 4).reshape(batch, heads, down * 16, across * 16)
    return keep[..., :rows, :columns].contiguous()
