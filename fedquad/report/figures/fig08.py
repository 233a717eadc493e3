"""Fig. 8: time to the target accuracy, and speed-up as a number and against the target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.report.figures.fig07 import TARGET_LINE, grid, shared_legend, tidy_grid
from fedquad.report.style import (
    DOUBLE_COLUMN,
    PAPER_COLOR,
    SINGLE_COLUMN,
    axes_or_new,
    bar_look,
    finish,
    line_look,
    new_figure,
    paper_marks,
)

GROUP = 0.84  # width of one task's bars
HEADROOM = 1.2  # of the time axis over its highest mark, for the speed-ups


def time_bars(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Simulated seconds to the target with 95 % intervals; FedQuad's speed-ups above the bars.

    The paper's seconds are hollow squares on an axis of their own at the right:
    those of its own devices and runs, shown and not judged.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.time_to_accuracy_frame` makes it.
    """
    ax = axes_or_new(ax)
    tops = []
    for method, rows, x, width in _by_method(df):
        seconds = rows["time_s"].to_numpy() / 1e3
        low, high = rows["time_low_s"].to_numpy() / 1e3, rows["time_high_s"].to_numpy() / 1e3
        ax.bar(x, seconds, width, **bar_look(method))
        lengths = np.clip([seconds - low, high - seconds], 0, None)
        ax.errorbar(
            x, seconds, yerr=lengths, linestyle="none", color="0.2", elinewidth=0.7, capsize=1.2
        )
        tops.extend(np.maximum(seconds, high))
        if method != "fedquad" and "speedup" in rows:
            for at, speedup in zip(x, rows["speedup"], strict=True):
                # In a row of their own at the top: bars, intervals and marks stay below.
                ax.annotate(
                    f"{speedup:.2g}x" if speedup < 10 else f"{speedup:.0f}x",
                    (at, 1),
                    xycoords=ax.get_xaxis_transform(),
                    ha="center",
                    va="top",
                    fontsize=5.5,
                )
    _task_axis(ax, df)
    ax.set_ylim(0, HEADROOM * max(tops))
    ax.set_ylabel("time to target, 10$^3$ s")
    finish(ax)
    if "paper_time_s" in df and df["paper_time_s"].notna().any():
        _paper_seconds(ax.twinx(), df)
    return ax


def _paper_seconds(ax: Axes, df: pd.DataFrame) -> None:
    """The paper's seconds, scaled so that its slowest stands as high as ours."""
    for _, rows, x, _ in _by_method(df):
        ax.plot(x, rows["paper_time_s"] / 1e3, **_PAPER_SECONDS)
    ax.set_ylim(0, HEADROOM * df["paper_time_s"].max() / 1e3)
    ax.set_ylabel("paper's, 10$^3$ s")
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, right=False)


_PAPER_SECONDS = {
    "linestyle": "none",
    "marker": "s",
    "markersize": 3,
    "markerfacecolor": "none",
    "markeredgecolor": PAPER_COLOR,
    "markeredgewidth": 0.6,
    "label": "paper's seconds",
}


def speedups(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """FedQuad's speed-up over each method with 95 % intervals; the paper's are hollow.

    Above the line at 1 FedQuad is the faster one. The axis is logarithmic: twice
    as fast and half as fast are equally far from 1.
    """
    ax = axes_or_new(ax)
    for method, rows, x, _ in _by_method(df[df["method"] != "fedquad"]):
        value = rows["speedup"].to_numpy()
        lengths = [value - rows["speedup_low"], rows["speedup_high"] - value]
        look = line_look(method) | {"linestyle": "none", "markersize": 3.5}
        ax.errorbar(x, value, yerr=np.clip(lengths, 0, None), elinewidth=0.8, capsize=1.5, **look)
        stated = rows["paper_speedup"].notna().to_numpy()
        if stated.any():
            marks = paper_marks(ax, x[stated], rows["paper_speedup"][stated], "paper's speed-up")
            marks.set_markersize(4)
    ax.axhline(1, color="0.4", linewidth=0.7)
    _task_axis(ax, df)
    _log_ticks(ax)
    ax.set_ylabel("FedQuad's speed-up")
    finish(ax)
    return ax


def speedup_against_target(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """FedQuad's speed-up over each method against the target accuracy, with 95 % bands.

    The dashed line is the common target of the paper's rule. A line ends where
    one of its two methods does.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.speedup_frame` makes it, of one task.
    """
    ax = axes_or_new(ax)
    df = df[df["task"] == df["task"].iloc[0]]
    for at, (method, rows) in enumerate(df.groupby("method", sort=False)):
        look = line_look(method)
        rows = rows.sort_values("target_percent")
        ax.fill_between(
            rows["target_percent"],
            rows["low"],
            rows["high"],
            color=look["color"],
            alpha=0.15,
            linewidth=0,
        )
        ax.plot(
            rows["target_percent"],
            rows["speedup"],
            **look,
            markevery=(2 * at, 9),
            markersize=3,
            linewidth=0.9,
        )
    ax.axhline(1, color="0.4", linewidth=0.7)
    ax.axvline(df["common_target_percent"].iloc[0], **TARGET_LINE)
    _log_ticks(ax)
    ax.set_xlabel("target accuracy, %")
    ax.set_ylabel("FedQuad's speed-up")
    finish(ax)
    return ax


def _by_method(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame, np.ndarray, float]]:
    """Method, its rows, their places on the task axis, and the width of a bar."""
    tasks = {task: at for at, task in enumerate(df["task"].drop_duplicates())}
    methods = list(df["method"].drop_duplicates())
    width = GROUP / len(methods)
    places = []
    for at, method in enumerate(methods):
        rows = df[df["method"] == method]
        shift = width * (at - (len(methods) - 1) / 2)
        places.append((method, rows, rows["task"].map(tasks).to_numpy() + shift, 0.92 * width))
    return places


def _task_axis(ax: Axes, df: pd.DataFrame) -> None:
    """Ticks with a task and its target each."""
    tasks = df.drop_duplicates("task")
    labels = [
        f"{task}\nat {target:.1f} %"
        for task, target in zip(tasks["task"], tasks["target_percent"], strict=True)
    ]
    ax.set_xticks(range(len(tasks)), labels)
    ax.set_xlim(-0.55, len(tasks) - 0.45)


def _log_ticks(ax: Axes) -> None:
    """A logarithmic axis in powers of two, as plain numbers, that always shows 1."""
    ax.set_yscale("log", base=2)
    low, high = ax.get_ylim()
    low, high = min(low, 0.8), max(high, 1.25)
    ax.set_ylim(low, high)
    ticks = [tick for tick in (2.0**power for power in range(-7, 8)) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    ax.minorticks_off()


def compose_time(df: pd.DataFrame) -> Figure:
    """Fig. 8: time above, speed-up below."""
    width = SINGLE_COLUMN if df["task"].nunique() <= 2 else DOUBLE_COLUMN
    figure, axes = new_figure(1, num_rows=2, width=width, height=3.4)
    time_bars(df, axes[0])
    speedups(df, axes[1])
    shared_legend(figure, figure.axes)
    return figure


def compose_against_target(df: pd.DataFrame) -> Figure:
    """The sweep: a panel per task."""
    tasks = list(df["task"].drop_duplicates())
    num_columns, num_rows, width = grid(len(tasks))
    figure, axes = new_figure(
        num_columns, num_rows=num_rows, width=width, height=0.45 + 1.65 * num_rows
    )
    for ax, task in zip(axes, tasks, strict=False):
        speedup_against_target(df[df["task"] == task], ax)
        ax.set_title(task)
    tidy_grid(axes, num_columns, len(tasks))
    shared_legend(figure, axes)
    return figure
