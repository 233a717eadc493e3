"""Fig. 3: accuracy, memory and latency against LoRA depth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquad.report.figures.accuracy import interval_table, paper_accuracies, seed_dots
from fedquad.report.style import (
    LOOKS,
    PALETTE,
    PAPER_COLOR,
    axes_or_new,
    finish,
    line_look,
    new_figure,
)

TASK_LINES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))


def depth_accuracy(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy against depth with a 95 % band; runs as dots, one line per task.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.depth_accuracy_frame` makes it.
    """
    ax = axes_or_new(ax)
    tasks = list(df["task"].drop_duplicates())
    for index, (task, (marker, linestyle)) in enumerate(zip(tasks, TASK_LINES, strict=False)):
        rows = df[df["task"] == task]
        depths = sorted(rows["depth"].unique())
        table = interval_table(rows, "depth", depths)
        color = PALETTE[index]
        ax.fill_between(depths, table["low"], table["high"], color=color, alpha=0.2, linewidth=0)
        if rows["seed"].nunique() > 1:
            seed_dots(ax, rows["depth"], rows["accuracy"])
        ax.plot(depths, table["value"], color=color, marker=marker, linestyle=linestyle, label=task)
    stated = df.drop_duplicates("depth")
    paper_accuracies(ax, stated["depth"], stated["paper_percent"], df["model"].iloc[0])
    _depth_axis(ax)
    ax.set_ylabel("accuracy, %")
    ax.legend(loc="best")
    finish(ax)
    return ax


def depth_memory(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Memory of a step against depth, with its slope, and a line of the paper's slope.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.depth_cost_frame` makes it.
    """
    ax = axes_or_new(ax)
    rows = df[df["source"] == "accounting"].sort_values("depth")
    depth, gigabytes = rows["depth"].to_numpy(), rows["total"].to_numpy() / 1e9
    beyond_first = depth >= 2
    slope = np.polyfit(depth[beyond_first], gigabytes[beyond_first], 1)[0]
    label = f"{1e3 * slope:+.0f} MB a layer"
    ax.plot(depth, gigabytes, **{**line_look("accounting"), "label": label})
    paper_slope = rows["paper_slope"].iloc[0] / 1e9
    # The paper states the slope only: its line is drawn through our deepest point.
    ax.plot(
        depth,
        gigabytes[-1] + paper_slope * (depth - depth[-1]),
        color=PAPER_COLOR,
        linestyle="--",
        linewidth=0.9,
        label=f"paper: {1e3 * paper_slope:+.0f} MB",
    )
    _depth_axis(ax)
    ax.set_ylim(0, 1.3 * gigabytes.max())
    ax.set_ylabel("memory, GB")
    ax.legend(loc="upper left")
    finish(ax)
    return ax


def depth_latency(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Work of a step as a percentage of that at the largest depth: counted and measured."""
    ax = axes_or_new(ax)
    for source in ("flops", "measured"):
        rows = df[df["source"] == source].sort_values("depth")
        if rows.empty:
            continue
        label = LOOKS[source].label
        if source == "measured":
            slope = 1e3 * np.polyfit(rows["depth"], rows["total"], 1)[0]
            paper_slope = 1e3 * rows["paper_slope"].iloc[0]
            # Another machine's milliseconds: the paper's stand beside ours, nothing is judged.
            label += f": {slope:+.1f} ms a layer\n(paper: {paper_slope:+.0f} ms on an A6000)"
        relative = rows["percent"] / rows["total"]
        ax.plot(rows["depth"], rows["percent"], **{**line_look(source), "label": label})
        if source == "measured":
            ax.fill_between(
                rows["depth"],
                rows["total_low"] * relative,
                rows["total_high"] * relative,
                color=LOOKS[source].color,
                alpha=0.2,
                linewidth=0,
            )
    _depth_axis(ax)
    ax.set_ylim(0, 150)
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.set_ylabel("step, % of the deepest")
    ax.legend(loc="upper left")
    finish(ax)
    return ax


def _depth_axis(ax: Axes) -> None:
    ax.set_xlabel("LoRA depth")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def compose_accuracy(df: pd.DataFrame) -> Figure:
    """Fig. 3(a)."""
    figure, axes = new_figure()
    depth_accuracy(df, axes[0])
    return figure


def compose_cost(df: pd.DataFrame) -> Figure:
    """Fig. 3(b)."""
    figure, axes = new_figure(2)
    depth_memory(df, axes[0])
    depth_latency(df, axes[1])
    return figure
