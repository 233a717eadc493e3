"""What configuration selection is given in one round, and what a choice comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedquad.config import InputError, require_int, require_positive
from fedquad.cost.layer_costs import LayerCosts

REWARD_OFFSET_S = 1e-4
"""c of Eq. (18)."""
_MOST_BYTES = 2**63 - 1
_LONGEST_TIME_S = 1e200  # sums of so long times are finite, and so are their quotients


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """One configuration (d, a) per device, and what it comes to; arrays of shape (n,).

    A device that fits nothing has depth 0: it is left out, with 0 bytes and gain
    and NaN as time and reward.

    Attributes
    ----------
    depth, quantized : ndarray of int64
        d and a.
    completion_time_s : ndarray of float64
        t_i of Eqs. 7 and 12.
    memory_bytes : ndarray of int64
        Left side of Eq. (11).
    expected_gain : ndarray of float64
        G(d) of Eq. (17).
    reward : ndarray of float64
        R(d, a) of Eq. (18).
    """

    depth: np.ndarray
    quantized: np.ndarray
    completion_time_s: np.ndarray
    memory_bytes: np.ndarray
    expected_gain: np.ndarray
    reward: np.ndarray

    @property
    def takes_part(self) -> np.ndarray:
        """Which devices have a configuration, of bool."""
        return self.depth > 0

    @property
    def round_time_s(self) -> float:
        """t_h: the longest completion time; NaN if nobody takes part."""
        times = self.completion_time_s[self.takes_part]
        return float(times.max()) if times.size else math.nan

    @property
    def mean_waiting_time_s(self) -> float:
        """w_h of Eq. (13), over the devices that take part."""
        times = self.completion_time_s[self.takes_part]
        return float(np.mean(times.max() - times)) if times.size else math.nan

    @property
    def mean_expected_gain(self) -> float:
        """Mean G(d) over the devices that take part."""
        gains = self.expected_gain[self.takes_part]
        return float(gains.mean()) if gains.size else math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectionProblem:
    """The inputs of Algorithm 1.

    Attributes
    ----------
    costs : LayerCosts
        The constants of Eqs. 6 and 11.
    memory_budget_bytes : array_like of int, shape (n,)
        M_i.
    flops_per_second : array_like of float, shape (n,)
        q_i.
    gradient_norms : array_like of float, shape (L,)
        g_l, the layer at the input first.
    mean_completion_time_s : float or None
        t_avg of the round before; None becomes ``first_mean_time_scale`` times
        `first_mean_completion_time_s`.
    first_mean_time_scale : float
        The first t_avg is a real setting: any that can be met is a fixed point.
    local_steps : int
        Steps of a round: completion times are theirs together.
    reward_offset_s : float
        c of Eq. (18).
    gain_of_depth : ndarray of float64, shape (L,)
        G(1) … G(L) of Eq. (17), derived.
    flops_of_configuration : ndarray of float64, shape (L, L)
        FLOPs of the local steps together at ``[d - 1, a]``, derived.

    Raises
    ------
    InputError
        Numbers out of range or not finite, arrays of the wrong length.
    """

    costs: LayerCosts
    memory_budget_bytes: np.ndarray
    flops_per_second: np.ndarray
    gradient_norms: np.ndarray
    mean_completion_time_s: float | None = None
    first_mean_time_scale: float = 1.0
    local_steps: int = 1
    reward_offset_s: float = REWARD_OFFSET_S
    gain_of_depth: np.ndarray = field(init=False)
    flops_of_configuration: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        require_int("local_steps", self.local_steps, 1)
        require_positive("reward_offset_s", self.reward_offset_s)
        require_positive("first_mean_time_scale", self.first_mean_time_scale)
        budgets = _whole_bytes(self.memory_budget_bytes, self.costs)
        flops = _flops_of_configuration(self.costs, self.local_steps)
        speeds = np.asarray(self.flops_per_second, dtype=np.float64)
        if len(speeds) != len(budgets):
            accepted = f"{len(budgets)} rates, one a memory budget"
            raise InputError("flops_per_second", f"{len(speeds)} rates", accepted)
        usable = np.isfinite(speeds) & (speeds > flops.max() / _LONGEST_TIME_S)
        for rate in speeds[~usable][:1].tolist():
            raise InputError("flops_per_second", rate, "a number > 0, a step of finite time")
        gains = expected_gains(self.gradient_norms, self.costs.num_layers)
        if not math.isfinite(float(gains[-1]) / self.reward_offset_s):
            raise InputError("reward_offset_s", self.reward_offset_s, "a finite G(L) / c")
        object.__setattr__(self, "memory_budget_bytes", budgets)
        object.__setattr__(self, "flops_per_second", speeds)
        object.__setattr__(self, "flops_of_configuration", flops)
        object.__setattr__(self, "gain_of_depth", gains)
        if self.mean_completion_time_s is None:
            first = self.first_mean_time_scale * first_mean_completion_time_s(self)
            object.__setattr__(self, "mean_completion_time_s", first)
        time = self.mean_completion_time_s
        if not math.isfinite(time) or time < 0:
            raise InputError("mean_completion_time_s", time, "a finite number >= 0")

    @property
    def num_devices(self) -> int:
        """n."""
        return len(self.flops_per_second)

    def completion_time_s(
        self, depth: np.ndarray, quantized: np.ndarray, flops_per_second: np.ndarray
    ) -> np.ndarray:
        """t_i = local steps · (c_f + c_d d + c_a a) / q_i, Eqs. 7 and 12; NaN at depth 0.

        The three arrays are broadcast against each other. FLOPs are whole numbers
        until the division, so the times are those of `MethodSetting`.
        """
        times = self.flops_of_configuration[np.maximum(depth, 1) - 1, quantized] / flops_per_second
        return np.where(depth > 0, times, np.nan)

    def reward(self, depth: np.ndarray, completion_time_s: np.ndarray) -> np.ndarray:
        """R = G(d) / (|t_i - t_avg| + c), Eq. (18); NaN at depth 0."""
        gap = np.abs(completion_time_s - self.mean_completion_time_s)
        return self.gain_of_depth[np.maximum(depth, 1) - 1] / (gap + self.reward_offset_s)

    def evaluate(self, depth: np.ndarray, quantized: np.ndarray) -> Selection:
        """What a configuration for each device comes to, arrays of shape (n,)."""
        takes_part = depth > 0
        quantized = np.where(takes_part, quantized, 0)
        times = self.completion_time_s(depth, quantized, self.flops_per_second)
        gains = self.gain_of_depth[np.maximum(depth, 1) - 1]
        return Selection(
            depth=depth,
            quantized=quantized,
            completion_time_s=times,
            memory_bytes=np.where(takes_part, self.costs.memory_bytes(depth, quantized), 0),
            expected_gain=np.where(takes_part, gains, 0.0),
            reward=self.reward(depth, times),
        )


def expected_gains(gradient_norms: np.ndarray, num_layers: int) -> np.ndarray:
    """G(d) for d = 1 … L: the sum of the norms of the top d layers (Eq. 17).

    Each sum is rounded once, so that equal gains are equal numbers.

    Raises
    ------
    InputError
        Not L norms, or one that is negative or not finite.
    """
    norms = np.asarray(gradient_norms, dtype=np.float64)
    if norms.shape != (num_layers,):
        accepted = f"{num_layers} norms, one a layer, the layer at the input first"
        raise InputError("gradient_norms", f"{norms.size} norms", accepted)
    for layer, norm in enumerate(norms.tolist()):
        if not 0 <= norm <= 1e200:  # far below the largest number, so that sums are finite
            raise InputError(f"gradient_norms[{layer}]", norm, "a number from 0 to 1e200")
    return np.array([math.fsum(norms[num_layers - d :]) for d in range(1, num_layers + 1)])


def deepest_unquantized(problem: SelectionProblem) -> np.ndarray:
    """d_i: the deepest LoRA depth that fits without quantization, of int64, shape (n,); 0 if none.

    A device with d_i = 0 fits nothing at all: (1, 0) is the smallest, as m_q <= m_o.
    """
    costs = problem.costs
    room = problem.memory_budget_bytes - costs.fixed_bytes
    return np.clip(room // costs.bytes_per_lora_layer, 0, costs.num_layers)


def first_mean_completion_time_s(problem: SelectionProblem) -> float:
    """t_avg before there was a round: mean completion time of (d_i, 0) (assumed, see notes).

    Over the devices that fit something; 0 if none does.
    """
    depth = deepest_unquantized(problem)
    fits = depth > 0
    if not fits.any():
        return 0.0
    times = problem.completion_time_s(depth, np.zeros_like(depth), problem.flops_per_second)
    return float(times[fits].mean())


def _whole_bytes(budgets: Any, costs: LayerCosts) -> np.ndarray:
    """Budgets as int64, beyond which no configuration can be."""
    largest = costs.memory_bytes(costs.num_layers)
    if largest > _MOST_BYTES:
        raise InputError("layer costs", largest, "less than 2^63 bytes at full depth")
    return np.clip(np.asarray(budgets, dtype=object), 0, _MOST_BYTES).astype(np.int64)


def _flops_of_configuration(costs: LayerCosts, local_steps: int) -> np.ndarray:
    layers = range(costs.num_layers)
    # Python integers: they do not overflow.
    per_step = [
        [costs.step_flops(layer + 1, quantized) for quantized in layers] for layer in layers
    ]
    try:
        return np.array([[float(local_steps * flops) for flops in row] for row in per_step])
    except OverflowError:
        raise InputError("layer costs", "FLOPs above 1e308", "FLOPs of a step") from None
