"""What happens at a step of a run, from its number and the seed alone: rate, rows, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fedquad.config import require_int

# What a seed is split into, so that one use never repeats the numbers of another.
_ROWS, _NOISE = 0, 1


def cosine_rate(step: int, num_steps: int, peak: float) -> float:
    """Learning rate of ``step``: ``peak / 2 * (1 + cos(pi * step / num_steps))``, no warm-up."""
    return 0.5 * peak * (1.0 + math.cos(math.pi * step / num_steps))


def row_order(num_rows: int, batch_size: int, seed: int | Sequence[int], step: int) -> np.ndarray:
    """Rows of one step, from (seed, step) alone, so that a run resumes anywhere.

    Every epoch is a permutation of its own. Its last, incomplete batch is
    dropped; a split smaller than a batch is one batch.

    Returns
    -------
    ndarray of int64, shape (min(batch_size, num_rows),)
    """
    require_int("num_rows", num_rows, 1)
    epoch, batch = divmod(step, max(1, num_rows // batch_size))
    order = _epoch_order(num_rows, seed_entropy(seed), epoch)
    return order[batch * batch_size : (batch + 1) * batch_size]


def step_seed(seed: int | Sequence[int], step: int) -> int:
    """Seed of a step's dropout, in ``0 .. 2**63 - 1``."""
    sequence = np.random.SeedSequence(seed_entropy(seed), spawn_key=(_NOISE, step))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_entropy(seed: int | Sequence[int]) -> tuple[int, ...]:
    """A seed, or several parts of one such as (seed, round, device), as a tuple."""
    return (seed,) if isinstance(seed, int) else tuple(int(part) for part in seed)


@lru_cache(maxsize=4)
def _epoch_order(num_rows: int, entropy: tuple[int, ...], epoch: int) -> np.ndarray:
    sequence = np.random.SeedSequence(entropy, spawn_key=(_ROWS, epoch))
    order = np.random.default_rng(sequence).permutation(num_rows)
    order.flags.writeable = False
    return order
