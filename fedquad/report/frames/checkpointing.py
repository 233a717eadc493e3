"""Quantization beside its rival, activation checkpointing: bytes kept, peak, operations, time."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fedquad.config import InputError
from fedquad.cost.accounting import StepCost
from fedquad.report.frames.costs import measured_rows
from fedquad.report.paper import reported_value

# Full depth with nothing, all layers but the last quantized, or every layer checkpointed.
METHODS = ("none", "quantization", "checkpointing")
# Columns of measured rows -> their names beside counted ones.
_TIMED = {
    "setting": "method",
    "model": "timed_model",
    "batch_size": "timed_batch_size",
    "length": "timed_length",
    "forward": "forward_s",
    "backward": "backward_s",
    "total": "step_s",
    "total_low": "step_low_s",
    "total_high": "step_high_s",
}


def checkpointing_frame(
    costs: Mapping[str, StepCost],
    measured: Mapping[str, pd.DataFrame],
    *,
    model: str,
    batch_size: int,
    length: int,
    profile: str,
) -> pd.DataFrame:
    """What keeping less costs, one row per method and measurement.

    Parameters
    ----------
    costs : mapping
        Each of `METHODS` -> cost of one step of ``model`` at full depth.
    measured : mapping
        ``profile``, and others that stand beside it -> step times, see
        `fedquad.report.frames.costs.measured_rows`. Methods are in column
        ``setting``; other settings are left out.

    Returns
    -------
    DataFrame
        Bytes and FLOPs belong to ``model``, seconds to ``timed_model`` on
        ``torch_device``; ``..._percent`` relate to ``none``.
        ``peak_step_bytes`` is the most that is alive at a moment beside
        weights and optimizer.

    Raises
    ------
    InputError
        A method that was not counted, or not timed in one of the measurements.
    """
    if missing := [name for name in METHODS if name not in costs]:
        raise InputError("costs without", missing, "one of each: " + ", ".join(METHODS))
    counted = _counted(costs).assign(model=model, batch_size=batch_size, length=length)
    blocks = []
    for name, rows in measured.items():
        timed = measured_rows("setting", rows).rename(columns=_TIMED).set_index("method")
        if missing := [method for method in METHODS if method not in timed.index]:
            raise InputError(f"{name} without", missing, "one of each: " + ", ".join(METHODS))
        block = counted.join(timed.drop(columns=["source", "unit"]), on="method")
        block["added_percent"] = 100 * (block["step_s"] / timed.loc["none", "step_s"] - 1)
        blocks.append(block.assign(measurement=name))
    frame = pd.concat(blocks, ignore_index=True).assign(profile=profile)
    paper = {
        "none": 0.0,
        "quantization": reported_value("quant-latency"),
        "checkpointing": reported_value("ckpt-latency"),
    }
    frame["paper_added_percent"] = frame["method"].map(paper)
    leading = ["measurement", "method", "model", "batch_size", "length"]
    return frame[leading + [column for column in frame if column not in leading]]


def _counted(costs: Mapping[str, StepCost]) -> pd.DataFrame:
    plain = costs["none"]
    return pd.DataFrame(
        [
            {
                "method": method,
                "kept_bytes": costs[method].activation_bytes,
                "kept_percent": 100 * costs[method].activation_bytes / plain.activation_bytes,
                "peak_step_bytes": costs[method].peak_step_bytes,
                "peak_percent": 100 * costs[method].peak_step_bytes / plain.peak_step_bytes,
                "flops": costs[method].total_flops,
                "added_flops_percent": 100 * (costs[method].total_flops / plain.total_flops - 1),
            }
            for method in METHODS
        ]
    )
