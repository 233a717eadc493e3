"""Fig. 4, accuracy: with quantized layers, and with depth bought by them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.report.figures.accuracy import (
    error_lengths,
    interval_table,
    paper_accuracies,
    seed_dots,
)
from fedquad.report.figures.fig03 import TASK_LINES
from fedquad.report.figures.fig04_costs import layer_axis, point_axis
from fedquad.report.intervals import Bootstrap
from fedquad.report.style import PALETTE, axes_or_new, finish, new_figure, paper_marks

HARMLESS_POINTS = -0.5  # the condition of the claim


def quantized_accuracy(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy at full depth against the number of quantized layers, with 95 % intervals.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.quantized_accuracy_frame` makes it.
    """
    ax = axes_or_new(ax)
    for index, task, rows, counts in _by_task(df):
        table = interval_table(rows, "quantized", counts)
        if rows["seed"].nunique() > 1:
            seed_dots(ax, rows["quantized"], rows["accuracy"])
        _error_line(ax, counts, table, index, task)
    layer_axis(ax)
    ax.set_xlim(-0.7, df["quantized"].max() + 0.7)
    ax.margins(y=0.25)
    ax.set_ylabel("accuracy, %")
    ax.legend(loc="lower right")
    finish(ax)
    return ax


def quantized_gain(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Gain over no quantization in points, paired by seed and test row; the paper's hollow."""
    ax = axes_or_new(ax)
    for index, task, rows, counts in _by_task(df):
        bootstrap = Bootstrap.from_frame(rows, "quantized")
        gains = [bootstrap.contrast({count: 1.0, 0: -1.0}) for count in counts if count]
        table = pd.DataFrame([{"value": g.value, "low": g.low, "high": g.high} for g in gains])
        _error_line(ax, [count for count in counts if count], table, index, task)
    ax.axhline(0, color="0.4", linewidth=0.6)
    ax.axhline(HARMLESS_POINTS, color="0.4", linewidth=0.8, linestyle=":")
    ax.annotate(
        f"{HARMLESS_POINTS} points",
        (0, HARMLESS_POINTS),
        (1, -1),
        textcoords="offset points",
        fontsize=5.5,
        va="top",
    )
    stated = df[df["paper_gain_points"].notna() & (df["quantized"] > 0)].drop_duplicates(
        "quantized"
    )
    paper_marks(ax, stated["quantized"], stated["paper_gain_points"], "paper")
    layer_axis(ax)
    ax.set_xlim(-0.7, df["quantized"].max() + 0.7)
    ax.margins(y=0.3)
    ax.set_ylabel("gain over none, points")
    ax.legend(loc="upper left")
    finish(ax)
    return ax


def synergy_accuracy(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy of the configurations (d, a) at about one memory, with 95 % intervals.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.synergy_accuracy_frame` makes it.
    """
    ax = axes_or_new(ax)
    points = df.drop_duplicates("position").sort_values("position")
    for index, task, rows, positions in _by_task(df, "position"):
        table = interval_table(rows, "position", positions)
        if rows["seed"].nunique() > 1:
            seed_dots(ax, rows["position"] - 0.08, rows["accuracy"])
        _error_line(ax, positions, table, index, task)
        for at, value in zip(positions, table["value"], strict=True):
            ax.annotate(
                f"{value:.1f}", (at, value), (6, -6), textcoords="offset points", fontsize=5.5
            )
    paper_accuracies(ax, points["position"], points["paper_percent"], df["model"].iloc[0])
    point_axis(ax, points)
    ax.margins(y=0.15)
    ax.set_ylabel("accuracy, %")
    ax.legend(loc="best")
    finish(ax)
    return ax


def _by_task(
    df: pd.DataFrame, by: str = "quantized"
) -> Iterator[tuple[int, str, pd.DataFrame, list]]:
    """Position, name, rows and configurations of every task."""
    for index, task in enumerate(df["task"].drop_duplicates()):
        rows = df[df["task"] == task]
        yield index, task, rows, sorted(rows[by].unique())


def _error_line(ax: Axes, x: list, table: pd.DataFrame, index: int, label: str) -> None:
    marker, linestyle = TASK_LINES[index % len(TASK_LINES)]
    ax.errorbar(
        x,
        table["value"],
        yerr=error_lengths(table),
        color=PALETTE[index],
        marker=marker,
        linestyle=linestyle,
        capsize=2,
        elinewidth=1,
        label=label,
    )


def compose_accuracy(df: pd.DataFrame) -> Figure:
    """Fig. 4(a), accuracy and gain."""
    figure, axes = new_figure(2)
    quantized_accuracy(df, axes[0])
    quantized_gain(df, axes[1])
    return figure


def compose_synergy_accuracy(df: pd.DataFrame) -> Figure:
    """Fig. 4(b), accuracy."""
    figure, axes = new_figure()
    synergy_accuracy(df, axes[0])
    return figure
