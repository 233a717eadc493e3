"""Who gets which rows: a Dirichlet partition of the training split over the devices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedquad.config import InputError, require_int

# numpy draws zeros only, not a distribution, from parameters that underflow.
SMALLEST_PARAMETER = 1e-300


def dirichlet_partition(
    labels: Sequence[int] | np.ndarray, num_devices: int, alpha: float, seed: int
) -> list[np.ndarray]:
    """Give each device floor(N / n) rows whose label mix is drawn from Dir(alpha * label prior).

    Parameters
    ----------
    labels : array of int, shape (N,)
        Label of every row; the prior is their share in it.
    num_devices : int
        n, at most N.
    alpha : float
        Concentration. Near 0 a device holds nearly one label; ``inf`` gives
        every device the prior itself, within one row and 1 / n of it.
    seed : int
        The partition is a function of the arguments alone.

    Returns
    -------
    list of ndarray of int64
        Row indices of each device, ascending. No row occurs twice; the
        N mod n rows left over are not used.

    Raises
    ------
    InputError
        More devices than rows, or an argument out of range.

    Notes
    -----
    Devices draw in random order, each from a generator of its own. Where a
    device wants more of a label than is left, it takes what there is and draws
    a new mix, from the same Dirichlet distribution, over the labels that
    remain; so do the last devices, whose mix is what the others left.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError("labels", f"{labels.dtype} {labels.shape}", "a list of integers")
    require_int("num_devices", num_devices, 1)
    require_int("seed", seed, 0)
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if not is_number or not alpha > 0:
        raise InputError("alpha", alpha, "a number > 0, or inf")
    if num_devices > len(labels):
        accepted = f"at most {len(labels)}, the number of samples to share out"
        raise InputError("num_devices", num_devices, accepted)

    order_seed, draws_seed = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(order_seed)
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    if math.isinf(alpha):
        return _deal(by_label, num_devices, rng)

    _, stock = np.unique(labels, return_counts=True)
    pools = np.split(by_label, np.cumsum(stock)[:-1])
    prior, taken = stock / stock.sum(), np.zeros_like(stock)
    device_seeds = draws_seed.spawn(num_devices)
    shards: list[np.ndarray] = [np.empty(0)] * num_devices
    for device in rng.permutation(num_devices):
        counts = _label_counts(
            np.random.default_rng(device_seeds[device]),
            alpha * prior,
            stock - taken,
            len(labels) // num_devices,
        )
        parts = [pools[i][taken[i] : taken[i] + count] for i, count in enumerate(counts)]
        shards[device] = np.sort(np.concatenate(parts))
        taken += counts
    return shards


def _label_counts(
    rng: np.random.Generator, parameters: np.ndarray, stock: np.ndarray, rows: int
) -> np.ndarray:
    """How many rows of each label a device takes, ``rows`` in all, none beyond ``stock``."""
    counts = np.zeros_like(stock)
    while (missing := rows - counts.sum()) > 0:
        left = np.flatnonzero(stock > counts)
        mix = rng.dirichlet(np.maximum(parameters[left], SMALLEST_PARAMETER))
        # One random offset rounds all shares up or down without bias and keeps their sum.
        edges = np.minimum(np.floor(np.cumsum(missing * mix) + rng.random()), missing)
        edges[-1] = missing
        wanted = np.diff(edges, prepend=0).astype(stock.dtype)
        counts[left] += np.minimum(wanted, stock[left] - counts[left])
    return counts


def _deal(by_label: np.ndarray, num_devices: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal rows that lie sorted by label like cards, so that each device gets the prior."""
    rows, used = len(by_label), len(by_label) // num_devices * num_devices
    # Evenly spaced rows are kept: the share of every label stays, whatever N mod n is.
    kept = by_label[(np.arange(used) * rows + rng.integers(rows)) // used]
    starts = rng.permutation(num_devices)
    return [np.sort(kept[start::num_devices]) for start in starts]
