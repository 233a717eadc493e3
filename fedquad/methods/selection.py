"""Adaptive configuration selection: Algorithm 1 of the paper, for all devices at once."""

from __future__ import annotations

import numpy as np

from fedquad.config import InputError, require_int
from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods.selection_problem import Selection, SelectionProblem

INFEASIBLE = -1
CHUNK_SIZE = 8192  # devices at a time: tables of 24 layers then stay near 1.5 MB each


def feasible_quantized(
    costs: LayerCosts, memory_budget_bytes: np.ndarray, *, may_quantize: bool = True
) -> np.ndarray:
    """Step 1 (lines 1-11): for each depth the fewest quantized layers that fit.

    The paper's loop over ``a`` goes on from the ``a`` of the depth before. As
    ``m_q <= m_o``, the least ``a`` never falls as depth grows, so that the loop
    finds the least ``a`` of Eq. (11), which is a division rounded up. For the same
    reason the depths that fit are 1 … d for some d.

    Parameters
    ----------
    costs : LayerCosts
    memory_budget_bytes : ndarray of int64, shape (n,)
        M_i.
    may_quantize : bool
        False keeps a = 0 (FedQuad without QD).

    Returns
    -------
    ndarray of int64, shape (n, L)
        a of depth d at ``[:, d - 1]``; -1 where no ``a <= d - 1`` fits.
    """
    depth = np.arange(1, costs.num_layers + 1)
    missing_bytes = np.maximum(costs.memory_bytes(depth) - memory_budget_bytes[:, None], 0)
    saved = costs.bytes_saved_per_quantized_layer
    if may_quantize and saved:
        quantized = -(-missing_bytes // saved)
        return np.where(quantized <= depth - 1, quantized, INFEASIBLE)
    return np.where(missing_bytes == 0, 0, INFEASIBLE)


def feasible_configurations(problem: SelectionProblem) -> np.ndarray:
    """Whether (d, a) fits Eqs. 11 and 15, at ``[:, d - 1, a]``, of bool, shape (n, L, L)."""
    least = feasible_quantized(problem.costs, problem.memory_budget_bytes)[:, :, None]
    layers = np.arange(problem.costs.num_layers)
    return (least != INFEASIBLE) & (layers >= least) & (layers <= layers[:, None])


def candidate_times_s(problem: SelectionProblem, *, may_quantize: bool = True) -> np.ndarray:
    """Step 2 (lines 12-14): t_i of each candidate, of float64, shape (n, L); NaN where none fits.

    Completion times never fall with depth, as the fewest quantized layers do not.
    """
    quantized = feasible_quantized(
        problem.costs, problem.memory_budget_bytes, may_quantize=may_quantize
    )
    return _times_s(problem, quantized, problem.flops_per_second)


def candidate_rewards(problem: SelectionProblem, *, may_quantize: bool = True) -> np.ndarray:
    """R(d, a) of each candidate, of float64, shape (n, L); -inf where none fits."""
    return _rewards(problem, candidate_times_s(problem, may_quantize=may_quantize))


def select_configurations(
    problem: SelectionProblem, *, may_quantize: bool = True, chunk_size: int = CHUNK_SIZE
) -> Selection:
    """Algorithm 1: for every device the candidate of the highest reward.

    Ties go to the smaller depth. A device that fits nothing is left out
    (`Selection.takes_part`); `require_all` names it in an error instead.

    Parameters
    ----------
    problem : SelectionProblem
    may_quantize : bool
        False keeps a = 0 (FedQuad without QD).
    chunk_size : int
        Devices that are looked at together: the tables of candidates exist for
        so many only, and what grows with n are the arrays of the result. It
        does not change the result.

    Returns
    -------
    Selection
    """
    require_int("chunk_size", chunk_size, 1)
    depth = np.zeros(problem.num_devices, dtype=np.int64)
    quantized = np.zeros_like(depth)
    for start in range(0, problem.num_devices, chunk_size):
        chunk = slice(start, start + chunk_size)
        candidates = feasible_quantized(
            problem.costs, problem.memory_budget_bytes[chunk], may_quantize=may_quantize
        )
        times = _times_s(problem, candidates, problem.flops_per_second[chunk])
        best = np.argmax(_rewards(problem, times), axis=1)  # the first of equal ones
        least = candidates[np.arange(len(best)), best]
        depth[chunk] = np.where(least == INFEASIBLE, 0, best + 1)
        quantized[chunk] = np.maximum(least, 0)
    return problem.evaluate(depth, quantized)


def select_at_depths(
    problem: SelectionProblem, depth: np.ndarray, *, may_quantize: bool = True
) -> Selection:
    """The candidates of given depths, int64 of shape (n,); 0 leaves a device out."""
    candidates = feasible_quantized(
        problem.costs, problem.memory_budget_bytes, may_quantize=may_quantize
    )
    least = candidates[np.arange(len(depth)), np.maximum(depth, 1) - 1]
    for device in np.flatnonzero((depth > 0) & (least == INFEASIBLE))[:1]:
        raise InputError("depth", int(depth[device]), f"a depth that fits device {device}")
    return problem.evaluate(depth, least)


def require_all(selection: Selection, device_ids: list[str], problem: SelectionProblem) -> None:
    """Raise `InputError` that names the devices which fit nothing, if there are any."""
    left_out = [device_ids[i] for i in np.flatnonzero(~selection.takes_part)]
    if left_out:
        smallest = problem.costs.memory_bytes(1)
        named = ", ".join(left_out[:10]) + (", …" if len(left_out) > 10 else "")
        accepted = f"room for one unquantized layer, {smallest} bytes or more"
        raise InputError(f"memory_budget_bytes of {len(left_out)} device(s)", named, accepted)


def _times_s(
    problem: SelectionProblem, quantized: np.ndarray, flops_per_second: np.ndarray
) -> np.ndarray:
    depth = np.arange(1, problem.costs.num_layers + 1)
    times = problem.completion_time_s(depth, np.maximum(quantized, 0), flops_per_second[:, None])
    return np.where(quantized == INFEASIBLE, np.nan, times)


def _rewards(problem: SelectionProblem, times: np.ndarray) -> np.ndarray:
    """Steps 3 and 4 (lines 15-20) but for the argmax."""
    rewards = problem.reward(np.arange(1, problem.costs.num_layers + 1), times)
    return np.where(np.isnan(times), -np.inf, rewards)
