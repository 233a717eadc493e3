"""Step times of the committed benchmarks, in the form in which the figures take measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fedquad.benchmarks.record import read_record

# The accounting's own setting: fp32, eager, with eager attention.
_SETTING = {"kind": "steps", "dtype": "float32", "mode": "eager", "attention": "eager"}
# Method of the figures -> those of the benchmarks, the first that was measured is taken.
_METHODS = {
    "none": ("none",),
    "quantization": ("fused", "hooks"),
    "checkpointing": ("checkpointing",),
}


def gpu_step_times(
    folder: str | Path, *, model: str, batch_size: int, length: int
) -> dict[str, pd.DataFrame]:
    """Wall times of steps without the optimizer, on every GPU that has been measured.

    Parameters
    ----------
    folder : str or Path
        With the files that `fedquad.benchmarks` writes; it need not exist. Those
        of CPUs, and those without a complete set of methods, are left out.
    model, batch_size, length
        Which steps.

    Returns
    -------
    dict of str to DataFrame
        ``benchmark <file>`` -> rows as `fedquad.report.frames.costs.measured_rows`
        takes them, methods in column ``setting``.

    Raises
    ------
    InputError
        For a file that is no such record.
    """
    wanted = {**_SETTING, "model": model, "batch_size": batch_size, "length": length}
    measured = {}
    for path in sorted(Path(folder).glob("*.json")):
        if path.name.startswith("cpu-"):
            continue
        stored = read_record(path)
        times = {
            row["method"]: row
            for row in stored["rows"]
            if row["status"] == "ok" and all(row.get(key) == wanted[key] for key in wanted)
        }
        rows = [_row(name, times, stored["machine"]["device"]) for name in _METHODS]
        if all(row is not None for row in rows):
            measured[f"benchmark {path.stem}"] = pd.DataFrame(rows)
    return measured


def _row(name: str, times: dict[str, dict[str, Any]], device: str) -> dict[str, Any] | None:
    method = next((method for method in _METHODS[name] if method in times), None)
    if method is None:
        return None
    row = times[method]
    return {
        "setting": name,
        "torch_device": device,
        **{key: row[key] for key in ("model", "batch_size", "length", "repeats")},
        "forward_s": row["forward_wall_s"],
        "backward_s": row["backward_wall_s"],
        "total_s": row["full_wall_s"],
        "total_low_s": row["full_wall_s_q25"],
        "total_high_s": row["full_wall_s_q75"],
    }
