"""What the frames of federated runs share: which runs, and where their numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fedquad.config import FederatedConfig, InputError

# The five approaches that the paper compares, in its order.
PAPER_METHODS = ("fedquad", "fedra", "inclusivefl", "layersel", "hetlora")
PAPER_TASKS = ("mnli", "qqp", "qnli", "sst2")
DEVICE_CLASSES = ("strong", "moderate", "weak")

RUN_COLUMNS = ["task", "model", "reference_model", "throughput_model", "method", "seed"]


def task_key(task: str) -> str:
    """The paper's name of a task, or of the embedded one that mirrors it (``micro-mnli``)."""
    return Path(task).name.removeprefix("micro-")


def default_runs(
    table: pd.DataFrame, *, methods: Sequence[str] = PAPER_METHODS, heterogeneity: str = "high"
) -> pd.DataFrame:
    """The rows of these methods with their own defaults, at one level of heterogeneity.

    Parameters
    ----------
    table : DataFrame
        Rounds or devices, as `fedquad.federation.results.federated_frames` makes them.
    methods : sequence of str
        Kept, in this order. Tasks, seeds and rounds stay in the table's order.

    Raises
    ------
    InputError
        When nothing is left, or two runs of a method differ in a setting that the
        figure does not show.
    """
    chosen = table["method"].isin(methods) & (table["heterogeneity"] == heterogeneity)
    chosen &= table["options"].fillna("") == ""
    rows = table[chosen]
    if rows.empty:
        accepted = f"at least one of {', '.join(methods)} at {heterogeneity} heterogeneity"
        raise InputError("runs", "none", accepted)
    runs = rows.drop_duplicates("run_id")
    twice = runs[runs.duplicated(RUN_COLUMNS)]
    if len(twice):
        raise InputError("runs", twice[RUN_COLUMNS].iloc[0].to_dict(), "each of them once")
    order = {method: at for at, method in enumerate(methods)}
    return rows.sort_values("method", key=lambda names: names.map(order), kind="stable")


def with_origin(devices: pd.DataFrame, rounds: pd.DataFrame, *, profile: str) -> pd.DataFrame:
    """Device rows with the profile, ``from_record`` of their round, and a name for every class.

    Devices of a fleet from a file have no class; they are called ``device``.

    Raises
    ------
    InputError
        When a device row has no round.
    """
    origin = rounds.set_index(["run_id", "round"])["from_record"]
    keys = pd.MultiIndex.from_frame(devices[["run_id", "round"]])
    missing = keys[~keys.isin(origin.index)]
    if len(missing):
        raise InputError("(run_id, round) of devices", missing[0], "one of the rounds")
    classes = devices["device_class"].fillna("").replace("", "device")
    rows = devices.assign(from_record=origin.loc[keys].to_numpy(), device_class=classes)
    rows = rows.reset_index(drop=True)
    rows.insert(0, "profile", profile)
    return rows


def of_default_throughput(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of the default throughput model; of the first one where that was not run."""
    found = list(df["throughput_model"].drop_duplicates())
    default = FederatedConfig.throughput_model
    return df[df["throughput_model"] == (default if default in found else found[0])]


def class_order(classes: pd.Series) -> list[str]:
    """The device classes that occur, strongest first, others after them."""
    found = list(dict.fromkeys(classes))
    known = [name for name in DEVICE_CLASSES if name in found]
    return known + [name for name in found if name not in DEVICE_CLASSES]
