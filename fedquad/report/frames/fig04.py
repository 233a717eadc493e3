"""Frames of Fig. 4, accuracy: of quantized layers, and of depth bought with them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fedquad.config import InputError, LayerConfig
from fedquad.report.frames.fig04_costs import point_label
from fedquad.report.frames.runs import accuracy_rows
from fedquad.report.paper import reported_value


def quantized_accuracy_frame(
    results: pd.DataFrame, *, num_layers: int, profile: str
) -> pd.DataFrame:
    """Fig. 4(a), accuracy: one row per number of quantized layers and run, at full depth.

    Parameters
    ----------
    results : DataFrame
        As `fedquad.runs.finetune.results_frame` makes it; runs at another depth
        or with fewer than 8 bits are left out.
    num_layers : int
        L of the trained model.

    Returns
    -------
    DataFrame
        With ``quantized`` and ``num_layers``. ``paper_gain_points`` is the
        paper's gain over no quantization, at the same share of the layers.
    """
    runs = _eight_bit_runs(results)
    frame = accuracy_rows(runs[runs["depth"] == num_layers], "quantized", profile=profile)
    if frame.empty:
        raise InputError("results", "no run at full depth", "at least one such run")
    frame["num_layers"] = num_layers
    paper = {0: 0.0, round(2 * num_layers / 3): reported_value("fig04a-acc-gain-8")}
    frame["paper_gain_points"] = frame["quantized"].map(paper)
    return _in_order(frame, "quantized")


def synergy_accuracy_frame(
    results: pd.DataFrame, points: Sequence[LayerConfig], *, num_layers: int, profile: str
) -> pd.DataFrame:
    """Fig. 4(b), accuracy: one row per configuration (d, a) and run.

    Parameters
    ----------
    results : DataFrame
        As for `quantized_accuracy_frame`; other configurations are left out.
    points : sequence of LayerConfig
        As `fedquad.runs.plans.synergy_points` gives them.

    Returns
    -------
    DataFrame
        With ``point`` (``(8, 5)``), ``position`` (0, 1, 2), ``depth``,
        ``quantized`` and the paper's accuracy.

    Raises
    ------
    InputError
        When a point has no run.
    """
    runs = _eight_bit_runs(results)
    position = {(point.depth, point.quantized): at for at, point in enumerate(points)}
    pairs = list(zip(runs["depth"], runs["quantized"], strict=True))
    runs = runs.assign(position=[position.get(pair, -1) for pair in pairs])
    runs = runs[runs["position"] >= 0]
    missing = [point_label(points[at]) for at in range(len(points)) if at not in set(runs.position)]
    if missing:
        raise InputError("points without a run", missing, "none")
    runs["point"] = [point_label(points[at]) for at in runs["position"]]
    frame = accuracy_rows(runs, "point", profile=profile)
    for column in ("position", "depth", "quantized"):
        frame[column] = runs[column].astype(int)
    frame["num_layers"] = num_layers
    paper = dict(enumerate(_paper_accuracies()))
    frame["paper_percent"] = frame["position"].map(paper)
    return _in_order(frame, "position")


def _eight_bit_runs(results: pd.DataFrame) -> pd.DataFrame:
    """LoRA runs with a depth and a number of quantized layers, both as integers."""
    runs = results[results["tuning"] == "lora"]
    whole = runs["depth"].notna() & runs["quantized"].notna() & (runs["activation_bits"] == 8)
    return runs[whole].astype({"depth": int, "quantized": int})


def _paper_accuracies() -> tuple[float, float, float]:
    """The paper's accuracy at its three points; it states the last one as a gain."""
    second = reported_value("fig04b-acc-8-5")
    return reported_value("fig04b-acc-5-0"), second, second + reported_value("fig04b-gain-10-9")


def _in_order(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Sorted by ``by`` and seed; tasks stay in the order of the profile, the first is judged."""
    order = {task: at for at, task in enumerate(frame["task"].unique())}
    rank = frame["task"].map(order)
    frame = frame.assign(rank=rank).sort_values(["rank", by, "seed"], kind="stable")
    return frame.drop(columns="rank").reset_index(drop=True)
