"""Frame of Fig. 9: how long devices wait, and for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedquad.config import FederatedConfig
from fedquad.report.frames.federated import (
    DEVICE_CLASSES,
    PAPER_METHODS,
    RUN_COLUMNS,
    default_runs,
    task_key,
    with_origin,
)
from fedquad.report.paper import reported_value

_ROUND_COLUMNS = [
    "round",
    "participants",
    "round_time_s",
    "mean_completion_time_s",
    "mean_waiting_time_s",
]


def waiting_frame(
    rounds: pd.DataFrame,
    devices: pd.DataFrame,
    *,
    profile: str,
    methods: Sequence[str] = PAPER_METHODS,
    heterogeneity: str = "high",
    reference_model: str = FederatedConfig.reference_model,
) -> pd.DataFrame:
    """Fig. 9: the average waiting time w_h of Eq. 13 of every round, and who was waited for.

    Parameters
    ----------
    rounds, devices : DataFrame
        As `fedquad.federation.results.federated_frames` makes them. Other methods,
        levels of heterogeneity and reference models, and runs with options are left out.

    Returns
    -------
    DataFrame
        One row per run and round: its seconds; class, mode, depth and quantized
        layers of the device that finished last; the mean wait of each class
        (``strong_waiting_time_s``, …, empty where it has no device); and
        ``paper_times_fedquad``, the paper's waiting time over FedQuad's, where it
        states one for the task.
    """
    of_model = rounds[rounds["reference_model"] == reference_model]
    rows = default_runs(of_model, methods=methods, heterogeneity=heterogeneity)
    by_device = with_origin(devices[devices["run_id"].isin(rows["run_id"])], rounds, profile="")
    present = by_device[by_device["participated"].astype(bool)]
    keys = ["run_id", "round"]
    last = present.loc[present.groupby(keys)["completion_time_s"].idxmax()].set_index(keys)
    last = last.astype({"depth": float, "quantized": float})
    waits = present.groupby([*keys, "device_class"])["waiting_time_s"].mean().unstack()
    index = pd.MultiIndex.from_frame(rows[keys])
    frame = rows[[*RUN_COLUMNS, *_ROUND_COLUMNS, "from_record"]].copy()
    for column in ("device_class", "mode", "depth", "quantized"):
        name = f"slowest_{column.removeprefix('device_')}"
        frame[name] = last[column].reindex(index).to_numpy()
    for name in DEVICE_CLASSES:
        seconds = waits[name].reindex(index).to_numpy() if name in waits else float("nan")
        frame[f"{name}_waiting_time_s"] = seconds
    pairs = zip(frame["task"], frame["method"], strict=True)
    frame["paper_times_fedquad"] = [paper_times_fedquad(task, method) for task, method in pairs]
    frame.insert(0, "profile", profile)
    return frame.reset_index(drop=True)


def paper_times_fedquad(task: str, method: str) -> float:
    """The paper's average waiting time of a method over that of FedQuad; NaN where it states none.

    On QQP from the seconds: the printed 51.9 % against HetLoRA does not follow from them.
    """
    key = task_key(task)
    if method == "fedquad" and key in ("mnli", "qqp"):
        return 1.0
    if key == "mnli" and method in PAPER_METHODS:
        return 1 / (1 - reported_value(f"fig09-mnli-wait-{method}") / 100)
    if key == "qqp" and method in PAPER_METHODS:
        seconds = [reported_value(f"fig09-qqp-wait-{name}") for name in (method, "fedquad")]
        return seconds[0] / seconds[1]
    return float("nan")


def seed_means(df: pd.DataFrame, methods: list[str]) -> np.ndarray:
    """Waiting time averaged over the rounds, of the seeds that all of these methods have.

    Returns
    -------
    np.ndarray
        Shape ``(seeds, methods)``; no rows where they share no seed.
    """
    means = df.groupby(["seed", "method"])["mean_waiting_time_s"].mean().unstack()
    return means.reindex(columns=methods).dropna().to_numpy()
