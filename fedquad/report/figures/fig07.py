"""Accuracy over simulated time: Fig. 7, the curves behind Table IV, and those of Fig. 10."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.report.curves import AccuracyCurves
from fedquad.report.frames.curves import REFERENCE_METHOD
from fedquad.report.metrics import common_target
from fedquad.report.style import (
    DOUBLE_COLUMN,
    LOOKS,
    SINGLE_COLUMN,
    axes_or_new,
    finish,
    line_look,
    new_figure,
)
from fedquad.report.time_to_accuracy import LEVEL, THROUGHPUT_MODEL

MAX_COLUMNS = 4
TARGET_LINE = {
    "color": "0.3",
    "linewidth": 0.7,
    "linestyle": (0, (4, 2)),
    "label": "common target",
}


def accuracy_over_time(df: pd.DataFrame, ax: Axes | None = None, *, level: str = LEVEL) -> Axes:
    """Smoothed accuracy against simulated time, with the range over seeds as a band.

    The dashed line is the target: the highest accuracy that every method but
    FedLoRA reaches, at every level of heterogeneity that is there. FedLoRA, which
    no memory constrains, is the thin reference line.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.accuracy_curves_frame` makes it, of one task.
    level : str
        The level that is drawn.
    """
    ax = axes_or_new(ax)
    first = df.iloc[0]
    same_clock = df["throughput_model"] == THROUGHPUT_MODEL
    df = df[same_clock & (df["task"] == first["task"])]
    df = df[df["reference_model"] == first["reference_model"]]
    highest, ends = [], []
    for (heterogeneity, method), rows in df.groupby(["heterogeneity", "method"], sort=False):
        curves = AccuracyCurves.from_frame(rows, ("heterogeneity", "method"))
        if method != REFERENCE_METHOD:
            highest.append(common_target(curves.accuracy))
        if heterogeneity == level:
            _curve(ax, curves, method)
            if method != REFERENCE_METHOD:
                ends.append(curves.time_s.max())
    if highest:
        ax.axhline(100 * min(highest), **TARGET_LINE)
    ax.set_xlim(0, 1.02 * max(ends, default=1.0) / 1e3)
    ax.set_xlabel("simulated time, 10$^3$ s")
    ax.set_ylabel("accuracy, %")
    finish(ax)
    return ax


def _curve(ax: Axes, curves: AccuracyCurves, method: str) -> None:
    """One method's line, with markers at about six of its rounds, and the seeds' range."""
    look = line_look(method)
    seconds, percent = curves.time_s[0] / 1e3, 100 * curves.accuracy[0]
    if method == REFERENCE_METHOD:
        ax.plot(seconds, percent, **look, linewidth=0.6, zorder=1.5)
        return
    if curves.num_seeds > 1:
        by_seed = 100 * curves.accuracy_by_seed(curves.groups[0])
        low, high = by_seed.min(axis=0), by_seed.max(axis=0)
        ax.fill_between(seconds, low, high, color=look["color"], alpha=0.15, linewidth=0)
    every = math.ceil(curves.num_rounds / 6)
    first = list(LOOKS).index(method) % every  # so that markers of two methods part
    ax.plot(seconds, percent, **look, markevery=(first, every), markersize=3, linewidth=0.9)


def shown(df: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn: the csv also holds other throughput models, for the claims."""
    return df[df["throughput_model"] == THROUGHPUT_MODEL]


def compose_accuracy(df: pd.DataFrame) -> Figure:
    """Fig. 7: a panel per task, and per further backbone."""
    df = shown(df)
    settings = df[df["heterogeneity"] == LEVEL][["task", "reference_model"]].drop_duplicates()
    several = settings["reference_model"].nunique() > 1
    panels = []
    for task, model in settings.itertuples(index=False):
        title = f"{task}, {model}" if several else task
        panels.append((title, df[(df["task"] == task) & (df["reference_model"] == model)], LEVEL))
    return draw_panels(panels)


def compose_levels(df: pd.DataFrame) -> Figure:
    """The curves behind Table IV: a panel per level of heterogeneity."""
    panels = []
    for task, level in df[["task", "heterogeneity"]].drop_duplicates().itertuples(index=False):
        panels.append((f"{task}, {level} heterogeneity", df[df["task"] == task], level))
    return draw_panels(panels)


def draw_panels(panels: list[tuple[str, pd.DataFrame, str]]) -> Figure:
    """Panels of (title, frame, level) in a grid, under one legend."""
    num_columns, num_rows, width = grid(len(panels))
    figure, axes = new_figure(
        num_columns, num_rows=num_rows, width=width, height=0.45 + 1.65 * num_rows
    )
    for ax, (title, df, level) in zip(axes, panels, strict=False):
        accuracy_over_time(df, ax, level=level)
        ax.set_title(title)
    tidy_grid(axes, num_columns, len(panels))
    shared_legend(figure, axes)
    return figure


def grid(num_panels: int) -> tuple[int, int, float]:
    """Columns, rows and width in inches: one column of the paper for up to two panels."""
    if num_panels <= 2:
        return num_panels, 1, SINGLE_COLUMN
    num_rows = math.ceil(num_panels / MAX_COLUMNS)
    return math.ceil(num_panels / num_rows), num_rows, DOUBLE_COLUMN


def tidy_grid(axes: list[Axes], num_columns: int, num_panels: int) -> None:
    """Name the y axis at the left only, and hide what has no panel."""
    for at, ax in enumerate(axes):
        if at % num_columns:
            ax.set_ylabel("")
        ax.set_visible(at < num_panels)


def shared_legend(figure: Figure, axes: list[Axes]) -> None:
    """One legend above all panels, each name once, in the order of `LOOKS`."""
    handles: dict[str, object] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = [look.label for look in LOOKS.values() if look.label in handles]
    order += [label for label in handles if label not in order]
    # About one entry fits into an inch.
    num_columns = min(len(order), max(1, int(figure.get_figwidth())))
    num_rows = int(np.ceil(len(order) / num_columns))
    figure.legend(
        [handles[label] for label in order],
        order,
        loc="outside upper center",
        ncols=int(np.ceil(len(order) / num_rows)),
    )
