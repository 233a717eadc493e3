"""FedQuad (https://doi.org/10.1109/TMC.2025.3637064) and its two ablations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from fedquad.config import Assignment, InputError, LayerConfig, require_positive
from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods.aggregation import LayerwiseMean
from fedquad.methods.method import Accumulator, History, Method, MethodSetting
from fedquad.methods.selection import (
    candidate_times_s,
    require_all,
    select_at_depths,
    select_configurations,
)
from fedquad.methods.selection_problem import REWARD_OFFSET_S, Selection, SelectionProblem
from fedquad.methods.waiting_limit import limit_waiting
from fedquad.model.adapter import Adapter


class _LayerConfigMethod(Method):
    """A method that gives each device a pair (d, a) which fits, and averages by layer (Eq. 19).

    What it chooses always fits the memory: both budget policies are the same to it.

    Parameters
    ----------
    setting : MethodSetting
    leave_out_infeasible : float
        What happens to a device that fits nothing: 1 leaves it out of the round
        (it counts as one that did not participate), 0 stops with an error that
        names it.
    """

    defaults: ClassVar[dict[str, float]] = {"leave_out_infeasible": 1.0}
    may_quantize: ClassVar[bool] = True

    def __init__(self, setting: MethodSetting, *, leave_out_infeasible: float = 1.0) -> None:
        super().__init__(setting)
        if leave_out_infeasible not in (0, 1):
            raise InputError("leave_out_infeasible", leave_out_infeasible, "0 or 1")
        self.leave_out_infeasible = bool(leave_out_infeasible)
        self.problem_options: dict[str, float] = {}

    @abstractmethod
    def select(self, problem: SelectionProblem) -> Selection:
        """The pair of each device."""

    def assign(self, statuses: Sequence[DeviceStatus], history: History) -> list[Assignment | None]:
        """Each device's pair as an assignment; None where nothing fits."""
        problem = self.problem(statuses, history)
        selection = self.select(problem)
        if not self.leave_out_infeasible:
            require_all(selection, [status.device_id for status in statuses], problem)

        assignment = cache(self._assignment)  # there are few pairs and may be many devices
        pairs = zip(selection.depth.tolist(), selection.quantized.tolist(), strict=True)
        return [assignment(depth, quantized) for depth, quantized in pairs]

    def smaller(self, assignment: Assignment) -> Assignment | None:
        """First all layers quantized that may be, then one layer less."""
        depth, quantized = len(assignment.trainable_layers), len(assignment.quantized_layers)
        if self.may_quantize and quantized < depth - 1:
            return self._assignment(depth, depth - 1)
        return self._assignment(depth - 1, max(0, min(quantized, depth - 2)))

    def _assignment(self, depth: int, quantized: int) -> Assignment | None:
        if depth == 0:
            return None
        config = LayerConfig(depth, quantized)
        return Assignment.from_layer_config(config, self.setting.num_layers, self.setting.lora_rank)

    def problem(self, statuses: Sequence[DeviceStatus], history: History) -> SelectionProblem:
        """The inputs of Algorithm 1 in this round."""
        return SelectionProblem(
            costs=self.setting.costs,
            memory_budget_bytes=[status.memory_budget_bytes for status in statuses],
            flops_per_second=[status.flops_per_second for status in statuses],
            gradient_norms=history.gradient_norms,
            mean_completion_time_s=history.mean_completion_time_s,
            local_steps=self.setting.local_steps,
            **self.problem_options,
        )

    def accumulator(self, global_adapter: Adapter) -> Accumulator:
        """Eq. (19): each layer's mean over the devices that trained it."""
        return LayerwiseMean(global_adapter)


class FedQuad(_LayerConfigMethod):
    """Algorithm 1 each round: the pair with the highest reward (Eq. 18).

    Parameters
    ----------
    setting : MethodSetting
    reward_offset_s : float
        c of Eq. (18).
    first_mean_time_scale : float
        Factor on the t_avg that the first round is given (`first_mean_completion_time_s`).
    waiting_limit_s : float
        theta of Eq. (14): an assignment that breaks it is repaired (`limit_waiting`)
        and the repair counted (`counts`); 0, as in Algorithm 1, is no limit.
    leave_out_infeasible : float
        1 or 0: leave a device out that fits nothing, or stop with an error.
    """

    name = "fedquad"
    label = "FedQuad"
    defaults: ClassVar[dict[str, float]] = {
        "reward_offset_s": REWARD_OFFSET_S,
        "first_mean_time_scale": 1.0,
        "waiting_limit_s": 0.0,
        "leave_out_infeasible": 1.0,
    }
    looks_at_time = True

    def __init__(
        self,
        setting: MethodSetting,
        *,
        reward_offset_s: float = REWARD_OFFSET_S,
        first_mean_time_scale: float = 1.0,
        waiting_limit_s: float = 0.0,
        leave_out_infeasible: float = 1.0,
    ) -> None:
        super().__init__(setting, leave_out_infeasible=leave_out_infeasible)
        require_positive("reward_offset_s", reward_offset_s)
        require_positive("first_mean_time_scale", first_mean_time_scale)
        if waiting_limit_s != 0:
            require_positive("waiting_limit_s", waiting_limit_s)
        self.problem_options = {
            "reward_offset_s": reward_offset_s,
            "first_mean_time_scale": first_mean_time_scale,
        }
        self.waiting_limit_s = waiting_limit_s
        self.repairs = {"repaired_rounds": 0, "lowered_layers": 0, "unmet_rounds": 0}

    def select(self, problem: SelectionProblem) -> Selection:
        """Algorithm 1, and the repair of its choice where there is a waiting limit."""
        selection = select_configurations(problem, may_quantize=self.may_quantize)
        if self.waiting_limit_s == 0 or not selection.takes_part.any():
            return selection
        times = candidate_times_s(problem, may_quantize=self.may_quantize)
        repair = limit_waiting(times, selection.depth, self.waiting_limit_s)
        self.repairs["repaired_rounds"] += repair.lowered_layers > 0
        self.repairs["lowered_layers"] += repair.lowered_layers
        self.repairs["unmet_rounds"] += not repair.limit_met
        return select_at_depths(problem, repair.depth, may_quantize=self.may_quantize)

    def counts(self) -> dict[str, int]:
        """Rounds in which the waiting limit was repaired, layers that took, rounds it was not met.

        Nothing without a limit.
        """
        return dict(self.repairs) if self.waiting_limit_s else {}

    def state_dict(self) -> dict[str, Any]:
        """What `counts` goes on from."""
        return dict(self.repairs)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from `state_dict`."""
        self.repairs = {name: int(state[name]) for name in self.repairs}


class FedQuadWithoutQuantization(FedQuad):
    """FedQuad w/o QD: Algorithm 1 with a = 0 only."""

    name = "fedquad-no-qd"
    label = "FedQuad w/o QD"
    may_quantize = False


class FedQuadWithoutDepthChoice(_LayerConfigMethod):
    """FedQuad w/o LD: no choice of depth; a = d - 1 and the largest d that then fits.

    m_f + m_o d - m_q (d - 1) <= M, Eq. (11) with all layers quantized but the output layer.
    """

    name = "fedquad-no-ld"
    label = "FedQuad w/o LD"

    def select(self, problem: SelectionProblem) -> Selection:
        """The deepest pair (d, d - 1) that fits."""
        costs = problem.costs
        depths = np.arange(1, costs.num_layers + 1)
        needed = costs.memory_bytes(depths, depths - 1)
        # Never falls with depth, as m_q <= m_o: so many depths fit, and the last of them is taken.
        depth = np.searchsorted(needed, problem.memory_budget_bytes, side="right")
        return problem.evaluate(depth, np.maximum(depth - 1, 0))
