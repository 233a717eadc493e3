"""Intervals over seeds alone, for what the virtual clock gives: there are no test items to draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedquad.config import InputError
from fedquad.report.intervals import BOOTSTRAP_SEED, NUM_REPLICATES, Estimate, interval

Statistic = Callable[[np.ndarray], np.ndarray]
"""From means over seeds, shape ``(replicates, ...)``, to one number each, ``(replicates,)``."""


def over_seeds(values: np.ndarray, statistic: Statistic, unit: str) -> Estimate:
    """A statistic of means over seeds, with its 95 % bootstrap interval.

    Each replicate draws whole seeds with replacement, so that whatever is compared
    within a seed (methods, classes, rounds) stays paired. With three seeds the
    interval reaches from the smallest to the largest value a seed alone would give.

    Parameters
    ----------
    values : np.ndarray
        Shape ``(seeds, ...)``.
    statistic : callable
        Applied to the mean over seeds, with one leading axis of replicates.

    Raises
    ------
    InputError
        Without a seed.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim < 1 or len(values) == 0:
        raise InputError("values.shape", values.shape, "(seeds, ...), at least one seed")
    num_seeds = len(values)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.integers(num_seeds, size=(NUM_REPLICATES, num_seeds))
    shares = np.stack([(drawn == seed).mean(axis=1) for seed in range(num_seeds)], axis=1)
    replicates = statistic(np.tensordot(shares, values, axes=1))
    value = statistic(values.mean(axis=0)[None])[0]
    return Estimate(float(value), *interval(replicates), unit, num_seeds)
