"""Fig. 9: the average waiting time, round by round and over all rounds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquad.report.figures.accuracy import error_lengths
from fedquad.report.frames.federated import of_default_throughput
from fedquad.report.frames.fig09 import seed_means
from fedquad.report.seed_intervals import over_seeds
from fedquad.report.style import (
    DOUBLE_COLUMN,
    LOOKS,
    SINGLE_COLUMN,
    axes_or_new,
    bar_look,
    finish,
    line_look,
    new_figure,
    paper_marks,
)


def waiting_over_rounds(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Average waiting time of each round, mean over seeds, one line a method.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.waiting_frame` makes it, of one task and throughput.
        The band reaches from the lowest to the highest seed.
    """
    ax = axes_or_new(ax)
    for method, rows in df.groupby("method", sort=False):
        by_round = rows.groupby("round")["mean_waiting_time_s"]
        mean, lowest, highest = by_round.mean(), by_round.min(), by_round.max()
        look = {**line_look(method), "markersize": 2.2, "linewidth": 0.9}
        ax.plot(mean, **look)
        color = LOOKS[method].color
        ax.fill_between(mean.index, lowest, highest, color=color, alpha=0.15, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("round")
    ax.set_ylabel("average waiting time, s")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_title(df["task"].iloc[0])
    finish(ax)
    return ax


def waiting_ratios(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Waiting time over all rounds as a multiple of FedQuad's, with 95 % intervals over seeds.

    Seconds stand above the bars, and the paper's multiples are hollow. Of several
    seeds, only those that FedQuad has too are compared.
    """
    ax = axes_or_new(ax)
    methods = list(df["method"].drop_duplicates())
    for at, method in enumerate(methods):
        pairs = seed_means(df, [method, "fedquad"])
        times = over_seeds(pairs, lambda mean: mean[:, 0] / mean[:, 1], "x")
        table = pd.DataFrame([{"value": times.value, "low": times.low, "high": times.high}])
        ax.bar(at, times.value, 0.75, **bar_look(method))
        lengths = error_lengths(table)
        ax.errorbar(at, times.value, yerr=lengths, color="0.2", capsize=2, elinewidth=0.9)
        ax.annotate(
            f"{pairs[:, 0].mean():.0f} s",
            (at, 1),
            xycoords=ax.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=4.5,
        )
    stated = df.drop_duplicates("method").set_index("method")["paper_times_fedquad"]
    stated = stated.drop("fedquad", errors="ignore").dropna()
    if len(stated):
        paper_marks(ax, [methods.index(method) for method in stated.index], stated)
    ax.axhline(1, color="0.4", linewidth=0.6, linestyle=":")
    labels = [LOOKS[method].label for method in methods]
    ax.set_xticks(range(len(methods)), labels, rotation=35, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", length=0, labelsize=5.5)
    ax.set_ylim(0, 1.2 * ax.dataLim.y1)  # seconds stand above the bars
    ax.set_ylabel("times FedQuad's waiting")
    finish(ax)
    return ax


def compose_waiting(df: pd.DataFrame) -> Figure:
    """Fig. 9: a column a task, rounds above and the ratios below."""
    shown = of_default_throughput(df)
    tasks = list(shown["task"].drop_duplicates())
    width = SINGLE_COLUMN if len(tasks) < 3 else DOUBLE_COLUMN
    figure, axes = new_figure(len(tasks), num_rows=2, width=width, height=3.6)
    for at, task in enumerate(tasks):
        rows = shown[shown["task"] == task]
        waiting_over_rounds(rows, axes[at])
        waiting_ratios(rows, axes[len(tasks) + at])
        if at:
            axes[at].set_ylabel("")
            axes[len(tasks) + at].set_ylabel("")
    entries: dict[str, object] = {}
    for ax in axes:
        marks = zip(*ax.get_legend_handles_labels(), strict=True)
        wanted = {label: handle for handle, label in marks if hasattr(handle, "get_xdata")}
        entries = wanted | entries
    columns = len(entries) if width == DOUBLE_COLUMN else 3
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns)
    return figure
