"""How far Algorithm 1 is from the optimum, on fleets small enough to find it exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedquad.config import InputError
from fedquad.methods.fastest_assignment import fastest_assignment
from fedquad.methods.selection import feasible_configurations, select_configurations
from fedquad.methods.selection_problem import Selection, SelectionProblem


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """Algorithm 1's choice beside two optima.

    Attributes
    ----------
    greedy : Selection
        Algorithm 1's.
    fastest : Selection
        `fastest_assignment`: the smallest round time at no less mean gain and no
        more mean waiting time.
    most_rewarding : Selection
        `most_rewarding_configurations`: the highest reward over all pairs that fit.
    """

    greedy: Selection
    fastest: Selection
    most_rewarding: Selection

    @property
    def round_time_ratio(self) -> float:
        """t_h of Algorithm 1 over the smallest one, >= 1."""
        return self.greedy.round_time_s / self.fastest.round_time_s

    @property
    def gain_ratio(self) -> float:
        """Mean gain of the fastest assignment over Algorithm 1's, >= 1; 1 if both are 0."""
        reached = self.greedy.mean_expected_gain
        return self.fastest.mean_expected_gain / reached if reached else 1.0

    @property
    def reward_ratio(self) -> float:
        """Mean over devices of the reward over the highest one there is, <= 1."""
        there = self.greedy.takes_part
        highest, reached = self.most_rewarding.reward[there], self.greedy.reward[there]
        # All norms may be zero: then every choice has the highest reward.
        ratios = np.divide(reached, highest, out=np.ones_like(reached), where=highest > 0)
        return float(ratios.mean())


def measure_yardstick(problem: SelectionProblem) -> Yardstick:
    """Algorithm 1, and both optima of the same problem.

    Raises
    ------
    InputError
        No device fits anything, or the fleet is too large for an exact answer.
    """
    greedy = select_configurations(problem)
    if not greedy.takes_part.any():
        raise InputError("memory_budget_bytes", "no device fits anything", "one that does, or more")
    return Yardstick(
        greedy=greedy,
        fastest=fastest_assignment(problem, greedy),
        most_rewarding=most_rewarding_configurations(problem),
    )


def most_rewarding_configurations(problem: SelectionProblem) -> Selection:
    """The argmax of Eq. (18) over all (d, a) that fit, not only those with the fewest a.

    Ties go to the smaller depth, then to the smaller a. Memory: n L^2 numbers.
    """
    candidate = feasible_configurations(problem)
    layers = np.arange(problem.costs.num_layers)
    depth, quantized = layers[:, None] + 1, layers
    times = problem.completion_time_s(depth, quantized, problem.flops_per_second[:, None, None])
    rewards = np.where(candidate, problem.reward(depth, times), -np.inf)
    flat = rewards.reshape(len(rewards), -1).argmax(axis=1)  # the first of equal ones
    best_depth, best_quantized = np.divmod(flat, len(layers))
    return problem.evaluate(np.where(candidate.any(axis=(1, 2)), best_depth + 1, 0), best_quantized)
