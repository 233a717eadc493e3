"""The limit theta on the mean waiting time (Eq. 14), which Algorithm 1 itself never looks at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedquad.config import require_positive


class Repair(NamedTuple):
    """Depths after a repair, and whether they keep the limit.

    Attributes
    ----------
    depth : ndarray of int64, shape (n,)
    lowered_layers : int
        How many depths were taken away, over all devices.
    limit_met : bool
    """

    depth: np.ndarray
    lowered_layers: int
    limit_met: bool


def limit_waiting(
    candidate_time_s: np.ndarray, depth: np.ndarray, waiting_limit_s: float
) -> Repair:
    """Lower the slowest device's depth, again and again, until w_h <= theta.

    Times never fall with depth. So when the slowest has been lowered until the
    round takes T seconds, every device stands at its deepest depth within T, and
    it is enough to look at each T. (Between two of them some of several equally
    slow devices are lowered: t_h stands still, waiting only grows.) It ends at
    the latest where the slowest device stands at depth 1. If no T keeps the limit,
    the one with the least waiting is taken, the longest of equal ones.

    Parameters
    ----------
    candidate_time_s : ndarray of float64, shape (n, L)
        Completion time at each depth with its fewest quantized layers; NaN where
        the depth does not fit.
    depth : ndarray of int64, shape (n,)
        The choice; 0 for devices that take no part.
    waiting_limit_s : float
        theta.

    Returns
    -------
    Repair
    """
    require_positive("waiting_limit_s", waiting_limit_s)
    chosen = np.arange(1, candidate_time_s.shape[1] + 1) <= depth[:, None]
    times = candidate_time_s[depth > 0]
    if not len(times):
        return Repair(depth, 0, True)
    reached = times[chosen[depth > 0]]
    steps = np.diff(times, axis=1, prepend=0.0)[chosen[depth > 0]]
    order = np.argsort(reached, kind="stable")
    round_times, ends = np.unique(reached[order], return_index=True)
    # The sum of all completion times when the round may take that long.
    sums = np.cumsum(steps[order])[np.append(ends[1:], len(reached)) - 1]
    possible = round_times >= times[:, 0].max()
    round_times, sums = round_times[possible], sums[possible]
    waiting = round_times - sums / len(times)
    kept = np.flatnonzero(waiting <= waiting_limit_s)
    best = kept[-1] if len(kept) else np.flatnonzero(waiting == waiting.min())[-1]
    within = chosen & (candidate_time_s <= round_times[best])
    repaired = within.sum(axis=1)
    return Repair(repaired, int((depth - repaired).sum()), bool(len(kept)))
