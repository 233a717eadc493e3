"""Rows that several cost figures share: bytes, FLOPs and measured seconds of one step."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fedquad.config import InputError
from fedquad.cost.accounting import StepCost
from fedquad.report.style import MEMORY_PARTS

MEASURED_COLUMNS = [
    "model",
    "torch_device",
    "batch_size",
    "length",
    "forward_s",
    "backward_s",
    "total_s",
    "total_low_s",
    "total_high_s",
    "repeats",
]


def accounting_rows(by: str, costs: Mapping[object, StepCost]) -> pd.DataFrame:
    """One row per configuration with its bytes: source ``accounting``, unit ``byte``."""
    rows = []
    for key, cost in costs.items():
        parts = {part: getattr(cost, part) for part in MEMORY_PARTS}
        rows.append(
            {by: key, "source": "accounting", **parts, "total": cost.total_bytes, "unit": "byte"}
        )
    return pd.DataFrame(rows)


def flop_rows(by: str, costs: Mapping[object, StepCost]) -> pd.DataFrame:
    """One row per configuration with its floating-point operations: source ``flops``."""
    rows = []
    for key, cost in costs.items():
        forward, backward = cost.forward_flops, cost.backward_flops
        rows.append(
            {
                by: key,
                "source": "flops",
                "forward": forward,
                "backward": backward,
                "total": forward + backward,
                "unit": "flop",
            }
        )
    return pd.DataFrame(rows)


def measured_rows(by: str, measured: pd.DataFrame) -> pd.DataFrame:
    """Measured step times as rows of source ``measured``, unit ``s``.

    Parameters
    ----------
    by : str
        Column of ``measured`` that names the configuration.
    measured : DataFrame
        ``rows`` of a `fedquad.runs.latencies.LatencyRecord`: column ``by`` and
        `MEASURED_COLUMNS`. ``total_s`` holds the optimizer too, so it is more
        than ``forward_s`` and ``backward_s`` together.
    """
    absent = sorted({by, *MEASURED_COLUMNS} - set(measured.columns))
    if absent:
        raise InputError("measured.columns", list(measured.columns), "also " + ", ".join(absent))
    renamed = measured[[by, *MEASURED_COLUMNS]].rename(columns=lambda name: name.removesuffix("_s"))
    return renamed.assign(source="measured", unit="s")


def assemble(
    by: str,
    costs: Mapping[object, StepCost],
    measured: pd.DataFrame | None,
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
    from_record: bool,
    with_memory: bool,
) -> pd.DataFrame:
    """Accounting (if asked for), FLOPs and, where there are any, measured rows in one frame."""
    if not costs:
        raise InputError("costs", dict(costs), "at least one configuration")
    counted = [flop_rows(by, costs)]
    if with_memory:
        counted.insert(0, accounting_rows(by, costs))
    setting = {"model": model, "batch_size": batch_size, "length": length}
    # Counting is part of every drawing; only seconds can come from a record.
    blocks = [block.assign(**setting, from_record=False) for block in counted]
    if measured is not None:
        order = {key: position for position, key in enumerate(costs)}
        rows = measured_rows(by, measured).sort_values(by, key=lambda keys: keys.map(order))
        blocks.append(rows.assign(from_record=from_record))
    frame = pd.concat(blocks, ignore_index=True).assign(profile=profile)
    leading = ["model", by, "source", "unit"]
    return frame[leading + [column for column in frame if column not in leading]]


def percent_of(frame: pd.DataFrame, by: str, baseline: Mapping[str, object]) -> pd.Series:
    """``total`` of each row as a percentage of its source's baseline configuration.

    Parameters
    ----------
    by : str
        Column that names the configuration.
    baseline : mapping
        Source -> the configuration that counts as 100 %.
    """
    percent = pd.Series(float("nan"), index=frame.index)
    for source, rows in frame.groupby("source"):
        base = rows.loc[rows[by] == baseline[source], "total"]
        if len(base) != 1:
            raise InputError(f"{source} rows of {by} = {baseline[source]}", len(base), "exactly 1")
        percent[rows.index] = 100 * rows["total"] / base.iloc[0]
    return percent
