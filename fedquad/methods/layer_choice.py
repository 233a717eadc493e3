"""Which layers each device trains, from their importance: LayerSel's selection problem.

Maximise over boolean x of shape (n, L)

    sum_il x_il importance_il - balance * sum over pairs of devices ||x_i - x_j||^2

under 1 <= sum_l x_il <= d_i. With c_l the number of devices that choose layer l,
the sum over pairs is sum_l c_l (n - c_l).
"""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np

MAX_ENUMERATED = 100_000
"""Joint choices up to which the problem is solved by enumeration."""

NUM_STARTS = 4
"""Of the search beyond it."""


def objective(chosen: np.ndarray, importance: np.ndarray, balance: float) -> float:
    """Value of a choice x of shape (n, L)."""
    counts = chosen.sum(axis=0)
    return float(importance[chosen].sum() - balance * (counts * (len(chosen) - counts)).sum())


def choose_layers(
    importance: np.ndarray, budgets: np.ndarray, balance: float, allowed: np.ndarray
) -> np.ndarray:
    """The best choice we can find: exact for ``balance`` 0 and for small problems.

    Parameters
    ----------
    importance : ndarray of float64, shape (n, L)
        Not negative.
    budgets : ndarray of int, shape (n,)
        d_i >= 1.
    balance : float
        lambda >= 0: what it costs that devices choose different layers.
    allowed : ndarray of bool, shape (n, L)
        What a device may choose at all, d_i layers or more.

    Returns
    -------
    ndarray of bool, shape (n, L)
    """
    if balance == 0:
        return choose_most_important(importance, budgets, allowed)
    if _num_joint_choices(budgets, allowed) <= MAX_ENUMERATED:
        return choose_by_enumeration(importance, budgets, balance, allowed)
    return choose_by_ascent(importance, budgets, balance, allowed)


def choose_most_important(
    importance: np.ndarray, budgets: np.ndarray, allowed: np.ndarray
) -> np.ndarray:
    """The d_i most important layers of each device; of equal ones the nearer to the output."""
    values = np.where(allowed, importance, -np.inf)
    order = values.shape[1] - 1 - np.argsort(-values[:, ::-1], axis=1, kind="stable")
    chosen = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.arange(values.shape[1]) < budgets[:, None], axis=1)
    return chosen


def choose_by_enumeration(
    importance: np.ndarray, budgets: np.ndarray, balance: float, allowed: np.ndarray
) -> np.ndarray:
    """The optimum, by trying every joint choice: their number grows exponentially in n."""
    num_devices, num_layers = importance.shape
    choices = [
        _choices(np.flatnonzero(may), budget, num_layers)
        for may, budget in zip(allowed, budgets.tolist(), strict=True)
    ]
    values, counts = np.zeros(1), np.zeros((1, num_layers), dtype=np.int32)
    for own, of_layer in zip(choices, importance, strict=True):
        values = (values[:, None] + own @ of_layer).ravel()
        counts = (counts[:, None] + own).reshape(-1, num_layers)
    values -= balance * (counts * (num_devices - counts)).sum(axis=1)
    best = np.unravel_index(int(values.argmax()), [len(own) for own in choices])
    return np.stack([own[idx] for own, idx in zip(choices, best, strict=True)])


def choose_by_ascent(
    importance: np.ndarray, budgets: np.ndarray, balance: float, allowed: np.ndarray
) -> np.ndarray:
    """A local optimum: no device alone can do better. The best one of several starts.

    With the others' choices given, a layer that c of them chose is worth
    importance - balance * (n - 1 - 2 c) to a device, whatever else it chooses. So
    its best answer is its best layers of worth >= 0, at most d_i and at least
    one. Devices answer in turn until none gains. A start gives each device its
    own k most important layers, or the k most important to all together, at most
    d_i; the `NUM_STARTS` best of these are followed.
    """
    together = np.broadcast_to(importance.sum(axis=0), importance.shape)
    starts = (
        choose_most_important(order, np.minimum(budgets, size), allowed)
        for size in range(int(budgets.max()), 0, -1)
        for order in (importance, together)
    )

    def value(chosen: np.ndarray) -> float:
        return objective(chosen, importance, balance)

    followed = heapq.nlargest(NUM_STARTS, starts, key=value)
    for start in followed:
        _answer_in_turn(start, importance, budgets, balance, allowed)
    return max(followed, key=value)


def _answer_in_turn(
    chosen: np.ndarray,
    importance: np.ndarray,
    budgets: np.ndarray,
    balance: float,
    allowed: np.ndarray,
) -> None:
    num_devices = len(chosen)
    counts = chosen.sum(axis=0)
    has_changed = True
    while has_changed:
        has_changed = False
        for device, own in enumerate(chosen):
            worth = importance[device] - balance * (num_devices - 1 - 2 * (counts - own))
            answer = _best_answer(worth, budgets[device], allowed[device])
            # Rounding must not let two equal answers alternate for ever.
            tolerance = 1e-12 * np.abs(worth).sum()
            if worth[answer].sum() > worth[own].sum() + tolerance:
                counts += answer.astype(int) - own
                own[:] = answer
                has_changed = True


def _best_answer(worth: np.ndarray, budget: int, allowed: np.ndarray) -> np.ndarray:
    layers = np.flatnonzero(allowed)
    best = layers[np.argsort(worth[layers], kind="stable")][-budget:]
    answer = np.zeros(len(worth), dtype=bool)
    answer[best] = worth[best] >= 0
    answer[best[-1]] = True
    return answer


def _num_joint_choices(budgets: np.ndarray, allowed: np.ndarray) -> int:
    total = 1
    for budget, size in zip(budgets.tolist(), allowed.sum(axis=1).tolist(), strict=True):
        total *= sum(math.comb(size, count) for count in range(1, budget + 1))
        if total > MAX_ENUMERATED:
            break
    return total


def _choices(layers: np.ndarray, budget: int, num_layers: int) -> np.ndarray:
    """Every set of 1 to ``budget`` of the layers, as rows of bool."""
    sets = [s for count in range(1, budget + 1) for s in itertools.combinations(layers, count)]
    rows = np.zeros((len(sets), num_layers), dtype=bool)
    for row, chosen in zip(rows, sets, strict=True):
        row[list(chosen)] = True
    return rows
