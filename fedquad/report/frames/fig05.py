"""Frame of Fig. 5: one round of one run, device by device."""

from __future__ import annotations

import pandas as pd

from fedquad.config import InputError
from fedquad.report.frames.federated import RUN_COLUMNS, class_order, with_origin
from fedquad.runs.results import parse_layers

_DEVICE_COLUMNS = [
    "round",
    "device_id",
    "device_class",
    "mode",
    "depth_budget",
    "memory_budget_bytes",
    "flops_per_second",
    "depth",
    "quantized",
    "completion_time_s",
    "waiting_time_s",
    "memory_bytes",
    "download_bytes",
    "upload_bytes",
]


def workflow_frame(
    rounds: pd.DataFrame, devices: pd.DataFrame, *, profile: str, round_number: int | None = None
) -> pd.DataFrame:
    """Fig. 5: what every participating device did in one round.

    Parameters
    ----------
    rounds, devices : DataFrame
        As `fedquad.federation.results.federated_frames` makes them, of one run.
    round_number : int or None
        From 1; None means the last one.

    Returns
    -------
    DataFrame
        One row a device, strongest class first and the slowest last within each:
        what it reported, its (d, a), its seconds and bytes, and ``num_layers``.
        ``skipped`` counts the devices that did not take part.

    Raises
    ------
    InputError
        For several runs, a round that was not run, or one without participants.
    """
    if devices["run_id"].nunique() != 1:
        raise InputError("runs", sorted(devices["run_id"].unique()), "exactly one")
    known = sorted(devices["round"].unique())
    chosen = known[-1] if round_number is None else round_number
    if chosen not in known:
        raise InputError("round_number", chosen, f"{known[0]} to {known[-1]}")
    rows = with_origin(devices[devices["round"] == chosen], rounds, profile=profile)
    taking_part = rows[rows["participated"].astype(bool)]
    if taking_part.empty:
        raise InputError("round_number", chosen, "a round with participants")
    order = class_order(taking_part["device_class"])
    ranked = taking_part.assign(rank=taking_part["device_class"].map(order.index))
    ranked = ranked.sort_values(["rank", "completion_time_s"], kind="stable")
    frame = ranked[["profile", *RUN_COLUMNS, *_DEVICE_COLUMNS, "from_record"]]
    counts = ("quantized", "memory_bytes", "download_bytes", "upload_bytes")
    frame = frame.astype(dict.fromkeys(counts, int))  # nullable only where devices are left out
    active = [parse_layers(text) for text in ranked["active_layers"]]
    frame["num_layers"] = 1 + max(max(layers) for layers in active)
    frame["skipped"] = len(rows) - len(taking_part)
    return frame.reset_index(drop=True)
