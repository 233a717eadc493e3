"""Frames of accuracy over simulated time: Figs. 7 and 10, and the curves behind Table IV."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fedquad.config import InputError
from fedquad.config.federated import HETEROGENEITY_LEVELS, THROUGHPUT_MODELS
from fedquad.report.frames.federated import PAPER_METHODS, default_runs
from fedquad.report.frames.fig08 import paper_ablation_speedup
from fedquad.report.frames.runs import require_answers
from fedquad.report.metrics import ABLATION_METHODS
from fedquad.report.time_to_accuracy import LEVEL, REFERENCE_MODEL, THROUGHPUT_MODEL

# Unconstrained by memory: drawn beside the others, never part of the target.
REFERENCE_METHOD = "fedlora"
# A row holds every test item's answer, so the csv keeps no other column that is not read.
_COLUMNS = [
    "task",
    "model",
    "reference_model",
    "heterogeneity",
    "throughput_model",
    "method",
    "seed",
    "round",
    "accuracy",
    "sim_time_s",
    "mean_waiting_time_s",
    "slowest_class",
    "num_eval",
    "correct",
    "from_record",
]


def accuracy_curves_frame(
    rounds: pd.DataFrame, devices: pd.DataFrame, *, profile: str
) -> pd.DataFrame:
    """Fig. 7, and what Fig. 8 and Table III are computed from.

    Parameters
    ----------
    rounds, devices : DataFrame
        As `fedquad.federation.results.federated_frames` makes them. Runs with
        options and the ablations are left out.

    Returns
    -------
    DataFrame
        One row per run and round, with the class of the device that finished
        last. At high heterogeneity all methods, tasks, backbones and throughput
        models; the other levels only under the default clock, since the target
        spans them.

    Raises
    ------
    InputError
        When there is no run at high heterogeneity, a run is there twice, or an
        accuracy is not the mean of its answers.
    """
    parts = [default_runs(rounds, methods=(*PAPER_METHODS, REFERENCE_METHOD), heterogeneity=LEVEL)]
    for level in _other_levels(rounds):
        rows = default_runs(rounds, methods=PAPER_METHODS, heterogeneity=level)
        parts.append(rows[rows["throughput_model"] == THROUGHPUT_MODEL])
    return _frame(pd.concat(parts), devices, profile=profile)


def heterogeneity_curves_frame(
    rounds: pd.DataFrame, devices: pd.DataFrame, *, profile: str
) -> pd.DataFrame:
    """The curves behind Table IV: the five methods at every level of heterogeneity.

    As `accuracy_curves_frame`, under the default clock and backbone, of the tasks
    that have the most levels.
    """
    levels = [LEVEL, *_other_levels(rounds)]
    rows = pd.concat(
        [default_runs(rounds, methods=PAPER_METHODS, heterogeneity=level) for level in levels]
    )
    rows = rows[rows["throughput_model"] == THROUGHPUT_MODEL]
    rows = rows[rows["reference_model"] == REFERENCE_MODEL]
    if rows.empty:
        raise InputError("runs", "none", f"runs priced as {REFERENCE_MODEL} ({THROUGHPUT_MODEL})")
    count = rows.groupby("task")["heterogeneity"].nunique()
    tasks = count.index[count == count.max()]
    return _frame(rows[rows["task"].isin(tasks)], devices, profile=profile)


def ablation_curves_frame(
    rounds: pd.DataFrame, devices: pd.DataFrame, *, profile: str
) -> pd.DataFrame:
    """Fig. 10: FedQuad and its two ablations, at high heterogeneity under the default clock.

    As `accuracy_curves_frame`, with the paper's speed-up over each ablation; tasks
    without an ablation are left out.
    """
    rows = default_runs(rounds, methods=ABLATION_METHODS, heterogeneity=LEVEL)
    rows = rows[rows["throughput_model"] == THROUGHPUT_MODEL]
    ablated = rows.loc[rows["method"] != "fedquad", ["task", "model"]].apply(tuple, axis=1)
    rows = rows[rows[["task", "model"]].apply(tuple, axis=1).isin(set(ablated))]
    if rows.empty:
        accepted = " and ".join(ABLATION_METHODS[1:])
        raise InputError("runs", "none", f"runs of {accepted} ({THROUGHPUT_MODEL})")
    frame = _frame(rows, devices, profile=profile)
    pairs = zip(frame["task"], frame["method"], strict=True)
    frame["paper_speedup"] = [paper_ablation_speedup(task, method) for task, method in pairs]
    return frame


def _other_levels(rounds: pd.DataFrame) -> list[str]:
    """Levels besides the main one at which the paper's methods ran."""
    found = set(rounds.loc[rounds["method"].isin(PAPER_METHODS), "heterogeneity"])
    return [level for level in HETEROGENEITY_LEVELS if level in found - {LEVEL}]


def _frame(rows: pd.DataFrame, devices: pd.DataFrame, *, profile: str) -> pd.DataFrame:
    slowest = slowest_classes(devices)
    keys = pd.MultiIndex.from_frame(rows[["run_id", "round"]])
    frame = rows.assign(slowest_class=slowest.reindex(keys).to_numpy())[_COLUMNS]
    require_answers(frame)
    orders = {
        "reference_model": _first(REFERENCE_MODEL, rows["reference_model"]),
        "task": list(rows["task"].drop_duplicates()),
        "throughput_model": THROUGHPUT_MODELS,
        "heterogeneity": HETEROGENEITY_LEVELS,
        "method": [*PAPER_METHODS, REFERENCE_METHOD, *ABLATION_METHODS[1:]],
    }
    frame = frame.sort_values(
        [*orders, "seed", "round"],
        key=lambda column: (
            column.map(_rank(orders[column.name])) if column.name in orders else column
        ),
        kind="stable",
    )
    frame.insert(0, "profile", profile)
    return frame.reset_index(drop=True)


def slowest_classes(devices: pd.DataFrame) -> pd.Series:
    """Class of the device that finished last, by (run_id, round); of equal ones the first.

    Devices of a fleet from a file have no class and are called ``device``.
    """
    present = devices[devices["participated"].astype(bool) & devices["completion_time_s"].notna()]
    last = present.groupby(["run_id", "round"])["completion_time_s"].idxmax()
    classes = present["device_class"].fillna("").replace("", "device")
    return pd.Series(classes.loc[last].to_numpy(), index=last.index, dtype=object)


def _first(name: str, names: pd.Series) -> list[str]:
    """The names that occur, the given one first."""
    return list(dict.fromkeys([name, *names]))


def _rank(order: Sequence[str]) -> dict[str, int]:
    return {name: at for at, name in enumerate(order)}
