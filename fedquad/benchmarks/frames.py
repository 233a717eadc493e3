"""Measured rows as tidy frames: every machine's, and each method beside none."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedquad.benchmarks.record import read_record
from fedquad.config import InputError

GROUP = ["device", "kind", "model", "batch_size", "length", "dtype", "mode", "attention"]
# Time of a step over that of the same step without any method, and what it adds in percent.
_ADDED = {
    "full_wall_s_over_none": "added_wall_percent",
    "full_device_s_over_none": "added_device_percent",
}
# What is measured once, and its share of that without any method.
_SHARES = {
    "kept_bytes": "kept_percent",
    "peak_bytes": "peak_percent",
    "busy_device_s": "busy_percent",
}


def load_records(folder: Path) -> dict[str, dict]:
    """File stem -> record, of every JSON file in a folder.

    Raises
    ------
    InputError
        There is none, or one is no such record.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        accepted = "a folder with files that `python -m fedquad.benchmarks all` wrote"
        raise InputError("folder", str(folder), accepted)
    return {path.stem: read_record(path) for path in paths}


def rows_frame(record: dict) -> pd.DataFrame:
    """All rows of a record with its ``device``; a column is there if any row has it."""
    frame = pd.DataFrame(record["rows"])
    wanted = [*GROUP, "method", "status", "message", "lora_gradient_error", *_ADDED, *_SHARES]
    return frame.assign(device=record["machine"]["device"]).reindex(
        columns=list(dict.fromkeys([*frame.columns, *wanted]))
    )


def compared_frame(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Steps or layers that were measured, related to ``none`` of the same group.

    Returns
    -------
    DataFrame
        The rows of ``kind``, with ``added_wall_percent``, ``added_device_percent`` and
        ``added_busy_percent`` of time (the first two are medians over repeats of the
        ratio in the same repeat) and ``kept_percent``, ``peak_percent`` of bytes; empty
        where ``none`` was not measured.
    """
    chosen = rows[rows["kind"] == kind]
    # Columns in which nothing was measured hold no numbers.
    numbers = [*_ADDED, *_SHARES]
    chosen = chosen.assign(**{name: pd.to_numeric(chosen[name]) for name in numbers})
    plain = chosen[(chosen["method"] == "none") & (chosen["status"] == "ok")]
    beside = chosen.merge(plain[[*GROUP, *_SHARES]], on=GROUP, how="left", suffixes=("", "_none"))
    for ratio, added in _ADDED.items():
        beside[added] = 100 * (beside[ratio] - 1)
    for name, percent in _SHARES.items():
        beside[percent] = 100 * beside[name] / beside.pop(f"{name}_none")
    return beside.assign(added_busy_percent=beside["busy_percent"] - 100)


def kernel_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Kernels that were measured, with ``seconds`` of the device, or of the wall on a CPU."""
    wanted = ["operation", "phase", "implementation", "shape", "wall_s", "device_s"]
    wanted += ["gb_per_s", "share_of_copy"]
    kernels = rows[(rows["kind"] == "kernel") & (rows["status"] == "ok")]
    kernels = kernels.reindex(columns=list(dict.fromkeys([*kernels.columns, *wanted])))
    device = pd.to_numeric(kernels["device_s"])
    return kernels.assign(seconds=device.fillna(pd.to_numeric(kernels["wall_s"])))
