"""Frames of Fig. 8, from that of Fig. 7: time to the target, and speed-up against the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fedquad.report.frames.federated import PAPER_METHODS, task_key
from fedquad.report.metrics import ABLATION_METHODS
from fedquad.report.paper import reported_value
from fedquad.report.time_to_accuracy import (
    LEVEL,
    REFERENCE_MODEL,
    THROUGHPUT_MODEL,
    TimeToAccuracy,
    compare,
)

PaperSpeedup = Callable[[str, str], float]
"""From a task and a method to the paper's speed-up of FedQuad over it; NaN where it has none."""

NUM_TARGETS = 40


def time_to_accuracy_frame(curves: pd.DataFrame) -> pd.DataFrame:
    """Fig. 8: time to the common target and speed-up, one row per task and method.

    Parameters
    ----------
    curves : DataFrame
        As `fedquad.report.frames.accuracy_curves_frame` makes it.

    Returns
    -------
    DataFrame
        The target in percent, seconds on the virtual clock and FedQuad's speed-up
        over the method, each with its interval, beside the paper's own. Methods
        without a run are left out, and their part in the target with them.
    """
    frame = summary(curves, PAPER_METHODS, paper_speedup)
    frame["paper_time_s"] = [
        _paper_time_s(task, method)
        for task, method in zip(frame["task"], frame["method"], strict=True)
    ]
    return frame


def ablation_summary(curves: pd.DataFrame) -> pd.DataFrame:
    """The same of FedQuad and its two ablations, from the frame of Fig. 10 alone."""
    stated = curves.drop_duplicates(["task", "method"]).set_index(["task", "method"])
    stated = stated["paper_speedup"]
    return summary(curves, ABLATION_METHODS, lambda task, method: stated[task, method])


def speedup_frame(curves: pd.DataFrame) -> pd.DataFrame:
    """Fig. 8's sweep: FedQuad's speed-up over each method against the target accuracy.

    Parameters
    ----------
    curves : DataFrame
        As for `time_to_accuracy_frame`.

    Returns
    -------
    DataFrame
        One row per task, method and target, from the first round's accuracy up to
        where one of the two ends; ``common_target_percent`` is the paper's rule.
    """
    parts = []
    for task in main_tasks(curves):
        comparison = compare(curves, task=task, methods=PAPER_METHODS)
        methods = methods_of(comparison)
        if "fedquad" not in methods:
            continue
        lines = [comparison.curves.accuracy[comparison.curves.row((LEVEL, m))] for m in methods]
        lowest, highest = min(line[0] for line in lines), max(line.max() for line in lines)
        targets = np.unique(np.linspace(lowest, highest, NUM_TARGETS))
        for method in methods:
            if method != "fedquad":
                sweep = comparison.speedups_at(targets, (LEVEL, method), fast=(LEVEL, "fedquad"))
                named = {**_origin(curves, task, comparison), "method": method}
                part = pd.DataFrame([named] * len(sweep)).join(sweep)
                part["common_target_percent"] = comparison.target.value
                parts.append(part)
    if not parts:
        return pd.DataFrame()
    return pd.concat(parts, ignore_index=True)


def main_tasks(curves: pd.DataFrame) -> list[str]:
    """Tasks with runs in the main setting, in their order."""
    return list(main_rows(curves)["task"].drop_duplicates())


def main_rows(curves: pd.DataFrame) -> pd.DataFrame:
    """Rows at high heterogeneity, under the default clock and backbone."""
    chosen = curves["heterogeneity"] == LEVEL
    chosen &= curves["throughput_model"] == THROUGHPUT_MODEL
    return curves[chosen & (curves["reference_model"] == REFERENCE_MODEL)]


def methods_of(comparison: TimeToAccuracy) -> list[str]:
    """The compared methods at high heterogeneity, in their order."""
    return [method for level, method in comparison.curves.groups if level == LEVEL]


def summary(curves: pd.DataFrame, methods: Sequence[str], paper: PaperSpeedup) -> pd.DataFrame:
    """One row per task of the main setting and method."""
    rows = []
    for task in main_tasks(curves):
        comparison = compare(curves, task=task, methods=methods)
        for method in methods_of(comparison):
            time_s = comparison.time_s((LEVEL, method))
            row = {
                **_origin(curves, task, comparison),
                "method": method,
                "target_percent": comparison.target.value,
                "target_low": comparison.target.low,
                "target_high": comparison.target.high,
                "time_s": time_s.value,
                "time_low_s": time_s.low,
                "time_high_s": time_s.high,
            }
            if "fedquad" in methods_of(comparison):
                speedup = comparison.speedup((LEVEL, method), fast=(LEVEL, "fedquad"))
                ends = {"speedup_low": speedup.low, "speedup_high": speedup.high}
                row |= {"speedup": speedup.value, **ends}
            rows.append({**row, "paper_speedup": paper(task, method)})
    return pd.DataFrame(rows)


def _origin(curves: pd.DataFrame, task: str, comparison: TimeToAccuracy) -> dict[str, object]:
    """The columns that say where a row comes from."""
    runs = main_rows(curves)
    runs = runs[runs["task"] == task]
    first = runs.iloc[0]
    names = ("profile", "task", "model", "reference_model", "heterogeneity", "throughput_model")
    return {
        **{name: first[name] for name in names},
        "num_seeds": comparison.num_seeds,
        "from_record": bool(runs["from_record"].all()),
    }


def paper_speedup(task: str, method: str) -> float:
    """The paper's speed-up of FedQuad over a baseline; NaN where it states none."""
    key = task_key(task)
    if key not in ("mnli", "qqp") or method not in PAPER_METHODS[1:]:
        return float("nan")
    return reported_value(f"fig08-{key}-x-{method}")


def paper_ablation_speedup(task: str, method: str) -> float:
    """The paper's speed-up over an ablation: stated on QQP, from the time cut on MNLI."""
    key, name = task_key(task), method.removeprefix("fedquad-").replace("-", "")
    if key not in ("mnli", "qqp") or method not in ABLATION_METHODS[1:]:
        return float("nan")
    if key == "qqp":
        return reported_value(f"fig10-qqp-x-{name}")
    return 1 / (1 - reported_value(f"fig10-mnli-cut-{name}") / 100)


def _paper_time_s(task: str, method: str) -> float:
    key = task_key(task)
    if key not in ("mnli", "qqp") or method not in PAPER_METHODS:
        return float("nan")
    return reported_value(f"fig08-{key}-{method}")
