"""Frame of Fig. 6 over a whole run: what Algorithm 1 gave to whom."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from fedquad.config import FederatedConfig, InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.report.frames.federated import RUN_COLUMNS, class_order, default_runs, with_origin

_DEVICE_COLUMNS = [
    "round",
    "device_id",
    "device_class",
    "depth_budget",
    "memory_budget_bytes",
    "depth",
    "quantized",
    "completion_time_s",
]


def configurations_frame(
    rounds: pd.DataFrame,
    devices: pd.DataFrame,
    costs: LayerCosts,
    *,
    profile: str,
    heterogeneity: str = "high",
    reference_model: str = FederatedConfig.reference_model,
) -> pd.DataFrame:
    """Fig. 6: FedQuad's (d, a) of every device and round, beside its unquantized budget.

    Parameters
    ----------
    rounds, devices : DataFrame
        As `fedquad.federation.results.federated_frames` makes them; other methods,
        levels and reference models are left out.
    costs : LayerCosts
        What the runs were priced by, cut to the trained model's L layers.

    Returns
    -------
    DataFrame
        One row a device and round that took part, with ``unquantized_time_s``,
        the seconds it would have taken at (d_i, 0), its deepest unquantized depth
        (NaN where not even one layer fits), and the six constants of ``costs``, so
        that each choice can be checked from the csv alone.

    Raises
    ------
    InputError
        When a recorded memory is not the one these costs give: the costs are then
        not those of the runs.
    """
    of_model = devices[devices["reference_model"] == reference_model]
    rows = default_runs(of_model, methods=("fedquad",), heterogeneity=heterogeneity)
    rows = with_origin(rows, rounds, profile=profile)
    rows = rows[rows["participated"].astype(bool)]
    _require_costs(rows, costs)
    order = class_order(rows["device_class"])
    frame = rows[["profile", *RUN_COLUMNS, *_DEVICE_COLUMNS, "from_record"]]
    frame = frame.astype({"quantized": int})
    flops = costs.step_flops(rows["depth"], rows["quantized"])
    unquantized = costs.step_flops(rows["depth_budget"])
    seconds = rows["completion_time_s"] * unquantized / flops
    frame["unquantized_time_s"] = seconds.where(rows["depth_budget"] > 0)
    frame = frame.assign(**asdict(costs))
    rank = frame["device_class"].map(order.index)
    frame = frame.assign(rank=rank).sort_values("rank", kind="stable").drop(columns="rank")
    return frame.reset_index(drop=True)


def _require_costs(rows: pd.DataFrame, costs: LayerCosts) -> None:
    memory = costs.memory_bytes(rows["depth"], rows["quantized"])
    wrong = rows[memory != rows["memory_bytes"]]
    if len(wrong):
        row = wrong.iloc[0]
        found = f"{memory[wrong.index[0]]} bytes at ({row['depth']}, {row['quantized']})"
        raise InputError("costs", found, f"{row['memory_bytes']}, as the run recorded")
