"""Accuracy with its interval against groups or depths, shared by several figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fedquad.report.intervals import Bootstrap
from fedquad.report.style import paper_marks

PAPER_LABEL = "paper: RoBERTa-base, MNLI"


def interval_table(df: pd.DataFrame, by: str, keys: Sequence[object]) -> pd.DataFrame:
    """Accuracy in percent and its interval per group of one task.

    Returns
    -------
    DataFrame
        Columns ``value, low, high``, one row per key.
    """
    bootstrap = Bootstrap.from_frame(df, by)
    estimates = [bootstrap.estimate(key) for key in keys]
    return pd.DataFrame([{"value": e.value, "low": e.low, "high": e.high} for e in estimates])


def error_lengths(table: pd.DataFrame) -> np.ndarray:
    """Lengths of the error bars below and above the values, shape ``(2, groups)``."""
    lengths = np.array([table["value"] - table["low"], table["high"] - table["value"]])
    return np.clip(lengths, 0, None)  # a percentile interval may leave out its estimate


def seed_dots(ax: Axes, x: Sequence[float], accuracy: pd.Series) -> None:
    """Every run as a faint dot."""
    ax.plot(x, 100 * accuracy, linestyle="none", marker=".", markersize=2.5, color="0.55", zorder=2)


def paper_accuracies(ax: Axes, x: Sequence[float], percent: pd.Series, model: str) -> None:
    """The paper's accuracies, hollow, named as another model's where they are."""
    stated = percent.notna().to_numpy()
    if stated.any():
        label = "paper" if "roberta-base" in model else PAPER_LABEL
        paper_marks(ax, np.asarray(x)[stated], percent[stated], label)
