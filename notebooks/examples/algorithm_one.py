"""Algorithm 1 for one device, in plain Python: the paper's lines, to read and to change.

The library does the same for all devices at once (`fedquad.methods.selection`):
this file is what the walkthrough shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fedquad.cost.layer_costs import LayerCosts

REWARD_OFFSET_S = 1e-4  # c of Eq. (18)


class Candidate(NamedTuple):
    """A pair (d, a) that fits, and what it comes to."""

    depth: int
    quantized: int
    memory_bytes: int
    completion_time_s: float
    gain: float
    reward: float


def memory_bytes(costs: LayerCosts, depth: int, quantized: int) -> int:
    """Left side of Eq. (11): m_f + m_o d - m_q a."""
    kept = costs.bytes_per_lora_layer * depth
    return costs.fixed_bytes + kept - costs.bytes_saved_per_quantized_layer * quantized


def fewest_quantized(costs: LayerCosts, depth: int, budget_bytes: int) -> int | None:
    """Lines 1 to 11: the smallest a <= d - 1 that fits; None where none does."""
    for quantized in range(depth):
        if memory_bytes(costs, depth, quantized) <= budget_bytes:
            return quantized
    return None


def completion_time_s(
    costs: LayerCosts, depth: int, quantized: int, flops_per_second: float, local_steps: int
) -> float:
    """Lines 12 to 14, Eqs. (6), (7) and (12)."""
    backward = costs.flops_per_lora_layer * depth + costs.flops_per_quantized_layer * quantized
    return local_steps * (costs.forward_flops + backward) / flops_per_second


def expected_gain(gradient_norms: Sequence[float], depth: int) -> float:
    """Lines 15 to 17, Eq. (17): the norms of the top d layers, summed."""
    return math.fsum(gradient_norms[len(gradient_norms) - depth :])


def candidates(
    costs: LayerCosts,
    *,
    budget_bytes: int,
    flops_per_second: float,
    gradient_norms: Sequence[float],
    mean_time_s: float,
    local_steps: int = 1,
) -> list[Candidate]:
    """Every depth that fits, with its reward (line 18, Eq. (18))."""
    found = []
    for depth in range(1, costs.num_layers + 1):
        quantized = fewest_quantized(costs, depth, budget_bytes)
        if quantized is None:
            continue
        seconds = completion_time_s(costs, depth, quantized, flops_per_second, local_steps)
        gain = expected_gain(gradient_norms, depth)
        reward = gain / (abs(seconds - mean_time_s) + REWARD_OFFSET_S)
        used = memory_bytes(costs, depth, quantized)
        found.append(Candidate(depth, quantized, used, seconds, gain, reward))
    return found


def choose(found: Sequence[Candidate]) -> Candidate:
    """Lines 19 and 20: the highest reward; of equal ones the first, which is the shallowest."""
    return max(found, key=lambda candidate: candidate.reward)
