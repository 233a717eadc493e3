"""Frames of what the formulas of Algorithm 1 predict: nothing is trained, only selected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedquad.config import InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods.selection import select_configurations
from fedquad.methods.selection_problem import SelectionProblem
from fedquad.report.frames.selection import selection_frame


def straggler_frame(
    costs: LayerCosts,
    *,
    depth_budget: int,
    flops_per_second: float,
    local_steps: int,
    mean_time_shares: Sequence[float] = (0.98, 0.8, 0.2),
) -> pd.DataFrame:
    """Algorithm 1 on a device that is slower than t_avg at every depth, with uniform norms.

    With one more layer costing s seconds its reward is d / (t(0) - t_avg + s d + c).
    It rises with depth where t_avg is below t(0), the forward pass alone: the device
    is sent to its deepest unquantized depth, and beyond where t_avg is far below.
    Between t(0) and t(1) it falls, and the device stays at depth 1.

    Parameters
    ----------
    depth_budget : int
        d_i: its memory holds exactly that many unquantized layers.
    mean_time_shares : sequence of float
        t_avg as a share of the device's time at depth 1, each below 1.

    Returns
    -------
    DataFrame
        As `selection_frame`, with ``mean_time_share``.
    """
    fastest = local_steps * costs.step_flops(1) / flops_per_second
    parts = []
    for share in mean_time_shares:
        if not 0 <= share < 1:
            raise InputError("mean_time_shares", share, "numbers below 1, so that it is slower")
        problem = SelectionProblem(
            costs=costs,
            memory_budget_bytes=[costs.memory_bytes(depth_budget)],
            flops_per_second=[flops_per_second],
            gradient_norms=np.ones(costs.num_layers),
            mean_completion_time_s=share * fastest,
            local_steps=local_steps,
        )
        parts.append(selection_frame(problem, ["straggler"]).assign(mean_time_share=share))
    return pd.concat(parts, ignore_index=True)


def fixed_point_frame(
    costs: LayerCosts,
    *,
    flops_per_second: float,
    local_steps: int,
    start_depths: Sequence[int],
    num_devices: int = 4,
    num_rounds: int = 10,
) -> pd.DataFrame:
    """Rounds of Algorithm 1 on equal devices that hold every layer, from several first t_avg.

    Parameters
    ----------
    start_depths : sequence of int
        The first t_avg is the time of (depth, 0).

    Returns
    -------
    DataFrame
        ``start_depth, round`` (0 is the start), ``mean_time_s``, ``depth``.
    """
    speeds = np.full(num_devices, float(flops_per_second))
    memory = [costs.memory_bytes(costs.num_layers)] * num_devices
    rows = []
    for start in start_depths:
        mean_time_s = local_steps * costs.step_flops(start) / flops_per_second
        rows.append((start, 0, mean_time_s, float(start)))
        for round_number in range(1, num_rounds + 1):
            problem = SelectionProblem(
                costs=costs,
                memory_budget_bytes=memory,
                flops_per_second=speeds,
                gradient_norms=np.ones(costs.num_layers),
                mean_completion_time_s=mean_time_s,
                local_steps=local_steps,
            )
            selection = select_configurations(problem)
            mean_time_s = float(selection.completion_time_s.mean())
            rows.append((start, round_number, mean_time_s, float(selection.depth.mean())))
    return pd.DataFrame(rows, columns=["start_depth", "round", "mean_time_s", "depth"])


def predictions_frame(
    costs: LayerCosts,
    *,
    model: str,
    profile: str,
    flops_per_second: float,
    local_steps: int,
    depth_budget: int | None = None,
    start_depths: Sequence[int] | None = None,
) -> pd.DataFrame:
    """What the formulas predict by themselves: nothing is trained, only selected.

    Parameters
    ----------
    model : str
        The reference model of ``costs``.
    flops_per_second : float
        q of every device.
    depth_budget, start_depths
        Of `straggler_frame` and `fixed_point_frame`; by default half of the layers,
        and the depths 1, the middle and L.

    Returns
    -------
    DataFrame
        Rows of `straggler_frame` (``panel`` is ``straggler``) and `fixed_point_frame`.
    """
    layers = costs.num_layers
    if depth_budget is None:
        depth_budget = max(1, layers // 2)
    if start_depths is None:
        start_depths = sorted({round(depth) for depth in np.linspace(1, layers, 3)})
    common = {"flops_per_second": flops_per_second, "local_steps": local_steps}
    straggler = straggler_frame(costs, depth_budget=depth_budget, **common)
    fixed = fixed_point_frame(costs, start_depths=start_depths, **common)
    panels = [straggler.assign(panel="straggler"), fixed.assign(panel="fixed point")]
    frame = pd.concat(panels, ignore_index=True)
    frame = frame.assign(profile=profile, model=model, num_layers=layers, from_record=False)
    leading = ["profile", "model", "panel"]
    return frame[leading + [column for column in frame if column not in leading]]
