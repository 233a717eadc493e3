"""Fig. 2: memory, latency and accuracy by the position of the trained layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.report.figures.accuracy import (
    error_lengths,
    interval_table,
    paper_accuracies,
    seed_dots,
)
from fedquad.report.style import LOOKS, axes_or_new, bar_look, finish, new_figure, paper_marks

BAR = 0.74


def position_memory(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Memory as a percentage of Layers-A.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.position_cost_frame` makes it.
    """
    ax = axes_or_new(ax)
    rows = df[df["source"] == "accounting"]
    _bars(ax, rows)
    ax.set_ylabel("memory, % of Layers-A")
    ax.legend(*_legend(ax), loc="upper left", ncols=2)
    return ax


def position_latency(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Work of a step as a percentage of Layers-S: FLOPs as bars, seconds as triangles."""
    ax = axes_or_new(ax)
    flops = df[df["source"] == "flops"]
    measured = df[df["source"] == "measured"].set_index("group")
    _bars(ax, flops)
    if len(measured):
        percent = measured["percent"].reindex(flops["group"]).to_numpy()
        look = LOOKS["measured"]
        ax.plot(
            np.arange(len(flops)) + 0.18,
            percent,
            linestyle="none",
            marker=look.marker,
            markersize=4,
            color=look.color,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=look.label,
            zorder=4,
        )
    ax.set_ylabel("FLOPs (bars), % of Layers-S")
    ax.legend(*_legend(ax), loc="upper left", ncols=2)
    return ax


def _bars(ax: Axes, rows: pd.DataFrame) -> None:
    """Percentages as bars, one look per group, and the paper's as hollow markers."""
    x = np.arange(len(rows))
    source = LOOKS[rows["source"].iloc[0]].label
    for at, group, percent in zip(x, rows["group"], rows["percent"], strict=True):
        bars = ax.bar(at, percent, BAR, **{**bar_look(group), "label": source})
        ax.bar_label(bars, fmt="%.0f", fontsize=5.5, label_type="center", color="white")
    stated = (rows["paper_percent"].notna() & (rows["group"] != rows["baseline"])).to_numpy()
    paper_marks(ax, x[stated], rows["paper_percent"][stated])
    ax.set_xticks(x, [_short(group) for group in rows["group"]])
    ax.set_ylim(0, 140)
    ax.set_yticks([0, 25, 50, 75, 100])
    finish(ax)


def _legend(ax: Axes) -> tuple[list, list]:
    """Legend entries without the bars, which their ticks name."""
    handles, labels = ax.get_legend_handles_labels()
    kept = [(h, label) for h, label in zip(handles, labels, strict=True) if hasattr(h, "get_xdata")]
    return [h for h, _ in kept], [label for _, label in kept]


def _short(group: str) -> str:
    return LOOKS[group].label.removeprefix("Layers-")


def position_accuracy(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy by group with 95 % intervals; runs as dots, tasks side by side.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.position_accuracy_frame` makes it.
    """
    ax = axes_or_new(ax)
    groups = list(df["group"].drop_duplicates())
    tasks = list(df["task"].drop_duplicates())
    for shift, task in zip(_task_shifts(len(tasks)), tasks, strict=True):
        rows = df[df["task"] == task]
        table = interval_table(rows, "group", groups)
        position = {group: at + shift for at, group in enumerate(groups)}
        seed_dots(ax, rows["group"].map(position) - 0.12, rows["accuracy"])
        for group, value, lengths in zip(
            groups, table["value"], error_lengths(table).T, strict=True
        ):
            look = LOOKS[group]
            ax.errorbar(
                position[group],
                value,
                yerr=lengths[:, None],
                color=look.color,
                marker=look.marker,
                markersize=4.5,
                capsize=2,
                elinewidth=1,
            )
            ax.annotate(
                f"{value:.1f}",
                (position[group], value),
                (5, 0),
                textcoords="offset points",
                fontsize=5.5,
                va="center",
            )
    x = np.arange(len(groups))
    paper = df.drop_duplicates("group")["paper_percent"].reset_index(drop=True)
    paper_accuracies(ax, x - 0.26, paper, df["model"].iloc[0])
    ax.set_xticks(x, [_tick(df, group) for group in groups])
    ax.set_xlim(-0.5, len(groups) - 0.4)
    ax.margins(y=0.12)
    ax.set_ylabel(f"accuracy on {' | '.join(tasks)}, %")
    ax.legend(loc="lower right")
    finish(ax)
    return ax


def _tick(df: pd.DataFrame, group: str) -> str:
    layers = df.loc[df["group"] == group, "layers"].iloc[0]
    return f"{LOOKS[group].label}\n{layers}"


def _task_shifts(count: int) -> np.ndarray:
    return 0.3 * (np.arange(count) - (count - 1) / 2)


def compose_cost(df: pd.DataFrame) -> Figure:
    """Fig. 2(a)."""
    figure, axes = new_figure(2)
    position_memory(df, axes[0])
    position_latency(df, axes[1])
    return figure


def compose_accuracy(df: pd.DataFrame) -> Figure:
    """Fig. 2(b)."""
    figure, axes = new_figure()
    position_accuracy(df, axes[0])
    return figure
