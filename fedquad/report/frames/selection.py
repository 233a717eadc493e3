"""Frames of Algorithm 1, step by step: on devices of a real round, and on made ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedquad.config import InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods.selection import (
    INFEASIBLE,
    candidate_rewards,
    candidate_times_s,
    feasible_quantized,
    select_configurations,
)
from fedquad.methods.selection_problem import SelectionProblem, deepest_unquantized
from fedquad.report.frames.federated import RUN_COLUMNS, with_origin


def selection_frame(problem: SelectionProblem, device_ids: Sequence[str]) -> pd.DataFrame:
    """Everything that Algorithm 1 looks at: one row per device and depth.

    Parameters
    ----------
    problem : SelectionProblem
        Of n devices.
    device_ids : sequence of str
        Their names.

    Returns
    -------
    DataFrame
        ``device_id, depth, feasible, quantized`` (the fewest that fit, step 1),
        ``completion_time_s`` (step 2), ``expected_gain`` (step 3), ``reward`` (step
        4), ``chosen``, ``memory_bytes``; the device's ``memory_budget_bytes``,
        ``flops_per_second`` and ``depth_budget``, and ``mean_time_s``, which is
        t_avg of the round before. What does not fit has NaN times and rewards.
    """
    if len(device_ids) != problem.num_devices:
        accepted = f"{problem.num_devices}, one a device of the problem"
        raise InputError("device_ids", len(device_ids), accepted)
    costs = problem.costs
    quantized = feasible_quantized(costs, problem.memory_budget_bytes)
    feasible = quantized != INFEASIBLE
    depth = np.broadcast_to(np.arange(1, costs.num_layers + 1), quantized.shape)
    needed = costs.memory_bytes(depth, np.maximum(quantized, 0))
    budget = deepest_unquantized(problem)
    chosen = select_configurations(problem).depth

    def column(values: np.ndarray) -> np.ndarray:
        return np.where(feasible, values, np.nan).ravel()

    def repeated(values: Sequence) -> np.ndarray:
        return np.repeat(np.asarray(values), costs.num_layers)

    return pd.DataFrame(
        {
            "device_id": repeated(list(device_ids)),
            "depth": depth.ravel(),
            "feasible": feasible.ravel(),
            "quantized": column(quantized),
            "completion_time_s": column(candidate_times_s(problem)),
            "expected_gain": np.tile(problem.gain_of_depth, problem.num_devices),
            "reward": column(candidate_rewards(problem)),
            "chosen": (depth == chosen[:, None]).ravel(),
            "memory_bytes": column(needed),
            "memory_budget_bytes": repeated(problem.memory_budget_bytes),
            "flops_per_second": repeated(problem.flops_per_second),
            "depth_budget": repeated(budget),
            "mean_time_s": problem.mean_completion_time_s,
        }
    )


def round_problem(
    rounds: pd.DataFrame,
    devices: pd.DataFrame,
    costs: LayerCosts,
    gradient_norms: Sequence[float],
    *,
    local_steps: int,
    round_number: int,
) -> tuple[SelectionProblem, pd.DataFrame]:
    """What Algorithm 1 was given in a stored round, and the devices' rows in its order.

    Parameters
    ----------
    rounds, devices : DataFrame
        As `fedquad.federation.results.federated_frames` makes them, of one FedQuad
        run with the defaults of its options.
    costs : LayerCosts
        What the run was priced by.
    gradient_norms : sequence of float
        g_l of the round before, as its record has them; ones in the first round.
    local_steps : int
        Of a round on the clock.
    round_number : int
        From 1.

    Raises
    ------
    InputError
        For several runs, a round that was not run, or inputs under which Algorithm 1
        does not choose what was recorded.
    """
    if devices["run_id"].nunique() != 1:
        raise InputError("runs", sorted(devices["run_id"].unique()), "exactly one")
    rows = devices[devices["round"] == round_number].reset_index(drop=True)
    if rows.empty:
        known = f"{devices['round'].min()} to {devices['round'].max()}"
        raise InputError("round_number", round_number, known)
    before = rounds.loc[rounds["round"] < round_number].sort_values("round")
    times = before["mean_completion_time_s"].dropna()
    problem = SelectionProblem(
        costs=costs,
        memory_budget_bytes=rows["memory_budget_bytes"].to_numpy(),
        flops_per_second=rows["flops_per_second"].to_numpy(),
        gradient_norms=np.asarray(gradient_norms, dtype=float),
        mean_completion_time_s=float(times.iloc[-1]) if len(times) else None,
        local_steps=local_steps,
    )
    choice = select_configurations(problem)
    recorded = rows["quantized"].fillna(0).to_numpy(dtype=int)
    differs = (choice.depth != rows["depth"]) | (choice.quantized != recorded)
    for at in np.flatnonzero(differs & rows["participated"].astype(bool)):
        row = rows.iloc[at]
        accepted = f"({row['depth']}, {row['quantized']}), as recorded for {row['device_id']}"
        found = (int(choice.depth[at]), int(choice.quantized[at]))
        raise InputError("choice under these norms, costs and steps", found, accepted)
    return problem, rows


def selection_example_frame(
    rounds: pd.DataFrame,
    devices: pd.DataFrame,
    costs: LayerCosts,
    gradient_norms: Sequence[float],
    *,
    local_steps: int,
    round_number: int,
    profile: str,
    classes: tuple[str, str] = ("strong", "weak"),
) -> pd.DataFrame:
    """Fig. 6: Algorithm 1 on two devices of a real round, a strong one and a weak one.

    Parameters
    ----------
    rounds, devices, costs, gradient_norms, local_steps, round_number
        As for `round_problem`.
    classes : pair of str
        Of each class the device is shown that was sent furthest beyond its
        unquantized budget; the fastest of equal ones.

    Returns
    -------
    DataFrame
        As `selection_frame`, with the run, the round, class and mode.

    Raises
    ------
    InputError
        What `round_problem` refuses, or a class without a device in the round.
    """
    problem, _ = round_problem(
        rounds,
        devices,
        costs,
        gradient_norms,
        local_steps=local_steps,
        round_number=round_number,
    )
    rows = with_origin(devices[devices["round"] == round_number], rounds, profile=profile)
    pair = pd.concat([_furthest(rows[rows["participated"]], name) for name in classes])
    frame = selection_frame(problem, list(rows["device_id"]))
    shown = ["profile", *RUN_COLUMNS, "round", "device_id", "device_class", "mode", "from_record"]
    return pair[shown].merge(frame, on="device_id")


def _furthest(rows: pd.DataFrame, device_class: str) -> pd.DataFrame:
    """The device of a class that was sent furthest beyond its unquantized budget."""
    members = rows[rows["device_class"] == device_class]
    if members.empty:
        raise InputError("classes", device_class, "classes with a device in the round")
    ranked = members.assign(beyond=members["depth"] - members["depth_budget"]).sort_values(
        ["beyond", "flops_per_second"], ascending=False, kind="stable"
    )
    return ranked.drop(columns="beyond").head(1)
