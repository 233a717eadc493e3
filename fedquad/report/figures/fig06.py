"""Fig. 6: Algorithm 1 on two devices, and what it gave to every class over the rounds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from fedquad.report.frames.federated import of_default_throughput
from fedquad.report.style import (
    DOUBLE_COLUMN,
    PALETTE,
    PAPER_COLOR,
    axes_or_new,
    finish,
    new_figure,
)

CHOSEN = {"marker": "*", "markersize": 9, "markeredgecolor": "white", "markeredgewidth": 0.5}
_CHOSEN_COLOR = PALETTE[3]


def candidates(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Step 1 for one device: for each depth the fewest quantized layers that fit.

    Parameters
    ----------
    df : DataFrame
        Rows of one device, as `fedquad.report.frames.selection_example_frame` or
        `selection_frame` makes them.
    """
    ax = axes_or_new(ax)
    fits = df[df["feasible"]]
    left = fits["depth"] - fits["quantized"]
    ax.bar(fits["depth"], left, 0.75, color=PALETTE[0], edgecolor="white", label="LoRA layers")
    ax.bar(
        fits["depth"],
        fits["quantized"],
        0.75,
        bottom=left,
        color=PALETTE[1],
        hatch="////",
        edgecolor="white",
        linewidth=0.4,
        label="of these quantized",
    )
    if len(fits) < len(df):
        first = fits["depth"].max() + 0.5 if len(fits) else df["depth"].min() - 0.5
        ax.axvspan(first, df["depth"].max() + 0.5, color="0.9", label="does not fit")
    chosen = df[df["chosen"]]
    ax.plot(chosen["depth"], chosen["depth"] + 0.7, linestyle="none", color=_CHOSEN_COLOR, **CHOSEN)
    ax.set_ylim(0, 1.45 * df["depth"].max())
    ax.set_ylabel("layers")
    ax.legend(loc="upper left", ncols=2, columnspacing=0.8)
    _depth_axis(ax, df)
    return ax


def candidate_times(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Step 2 for one device: the completion time at each depth against t_avg.

    Right of the dotted line layers have to be quantized.
    """
    ax = axes_or_new(ax)
    fits = df[df["feasible"]]
    ax.plot(fits["depth"], fits["completion_time_s"], marker="o", color=PALETTE[0], label="$t_i$")
    mean = df["mean_time_s"].iloc[0]
    ax.axhline(mean, color=PAPER_COLOR, linestyle="--", linewidth=0.9, label="$t_{avg}$")
    budget = df["depth_budget"].iloc[0]
    if 0 < budget < df["depth"].max():
        ax.axvline(budget + 0.5, ymax=0.85, color="0.5", linestyle=":", linewidth=0.9)
    _star(ax, df, "completion_time_s")
    top = max([mean, *fits["completion_time_s"]])
    ax.set_ylim(0, 1.4 * top)
    ax.set_ylabel("time, s")
    ax.legend(loc="upper left", ncols=3)
    _depth_axis(ax, df)
    return ax


def candidate_rewards(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Steps 3 and 4 for one device: gain and reward, each as a percentage of its largest.

    Gain of a depth that does not fit is not shown. The axis is logarithmic: near
    t_avg the reward grows as one over the gap.
    """
    ax = axes_or_new(ax)
    fits = df[df["feasible"]]
    percent = {
        column: 100 * fits[column] / fits[column].max() for column in ("expected_gain", "reward")
    }
    ax.plot(
        fits["depth"],
        percent["expected_gain"],
        marker="s",
        linestyle="--",
        color=PALETTE[2],
        label="gain $G(d)$",
    )
    ax.plot(fits["depth"], percent["reward"], marker="o", color=PALETTE[4], label="reward $R$")
    chosen = fits[fits["chosen"]]
    ax.plot(chosen["depth"], [100] * len(chosen), linestyle="none", color=_CHOSEN_COLOR, **CHOSEN)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=5))
    ax.yaxis.set_minor_locator(NullLocator())
    low = min([100.0, *(value for values in percent.values() for value in values)])
    ax.set_ylim(0.6 * low, 200 * (100 / low) ** 0.3)  # a share of the axis for the legend
    ax.set_ylabel("% of the largest")
    ax.legend(loc="upper left", ncols=2)
    _depth_axis(ax, df)
    return ax


def _star(ax: Axes, df: pd.DataFrame, column: str) -> None:
    chosen = df[df["chosen"]]
    look = {**CHOSEN, "linestyle": "none", "color": _CHOSEN_COLOR, "zorder": 5}
    text = [f"chosen: ({row.depth}, {int(row.quantized)})" for row in chosen.itertuples()]
    ax.plot(chosen["depth"], chosen[column], label=text[0] if text else None, **look)


def _depth_axis(ax: Axes, df: pd.DataFrame) -> None:
    ax.set_xlim(df["depth"].min() - 0.6, df["depth"].max() + 0.6)
    ax.set_xlabel("LoRA depth $d$")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    finish(ax)


PANELS = (candidates, candidate_times, candidate_rewards)


def draw_selection(df: pd.DataFrame, axes: list[Axes]) -> None:
    """The three steps for one device, side by side."""
    for panel, ax in zip(PANELS, axes, strict=True):
        panel(df, ax)
    axes[0].set_title(device_title(df), loc="left")


def device_title(df: pd.DataFrame) -> str:
    """Class, mode, memory and speed of a device."""
    row = df.iloc[0]
    mode = row.get("mode")
    name = row.get("device_class", row["device_id"])
    if isinstance(mode, str) and mode:
        name = f"{name} ({mode})"
    memory, speed = row["memory_budget_bytes"] / 1e9, row["flops_per_second"] / 1e12
    return f"{name}: {memory:.1f} GB, {speed:.2f} TFLOP/s"


def compose_example(df: pd.DataFrame) -> Figure:
    """Fig. 6, the example: one row a device, one column a step of Algorithm 1."""
    names = list(df["device_id"].drop_duplicates())
    figure, axes = new_figure(
        len(PANELS), num_rows=len(names), width=DOUBLE_COLUMN, height=0.3 + 1.75 * len(names)
    )
    for at, name in enumerate(names):
        rows = df[df["device_id"] == name]
        draw_selection(rows, axes[at * len(PANELS) :][: len(PANELS)])
    return figure


def class_configurations(df: pd.DataFrame, device_class: str, ax: Axes | None = None) -> Axes:
    """Mean depth and quantized layers of one class over the rounds, beside its budget.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.configurations_frame` makes it, of one task. The
        band reaches from the lowest to the highest seed.
    """
    ax = axes_or_new(ax)
    rows = df[df["device_class"] == device_class]
    columns = ["depth", "quantized", "depth_budget"]
    by_seed = rows.groupby(["round", "seed"])[columns].mean()
    mean = by_seed.groupby("round").mean()
    lowest, highest = by_seed.groupby("round").min(), by_seed.groupby("round").max()
    # Above the depth, with which it coincides where nothing is quantized.
    look = {"color": PAPER_COLOR, "linestyle": "--", "zorder": 4}
    ax.plot(mean["depth_budget"], label="unquantized budget", **look)
    for column, marker, linestyle, color, label in (
        ("depth", "o", "-", PALETTE[0], "LoRA depth"),
        ("quantized", "s", ":", PALETTE[1], "quantized layers"),
    ):
        ax.fill_between(
            mean.index, lowest[column], highest[column], color=color, alpha=0.2, linewidth=0
        )
        look = {"marker": marker, "markersize": 3, "linestyle": linestyle, "color": color}
        ax.plot(mean[column], label=label, **look)
    ax.set_title(device_class)
    ax.set_xlabel("round")
    ax.set_ylabel("layers, mean of the class")
    ax.set_ylim(-0.3, df["num_layers"].iloc[0] * 1.05)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    finish(ax)
    return ax


def shown(df: pd.DataFrame) -> pd.DataFrame:
    """The rows that `compose_configurations` draws: first task, default throughput model."""
    rows = of_default_throughput(df)
    return rows[rows["task"] == rows["task"].iloc[0]]


def compose_configurations(df: pd.DataFrame) -> Figure:
    """Fig. 6, over a whole run: one panel a class, of the first task and throughput model."""
    rows = shown(df)
    classes = list(rows["device_class"].drop_duplicates())
    figure, axes = new_figure(len(classes), width=DOUBLE_COLUMN, height=2.3)
    for ax, name in zip(axes, classes, strict=True):
        class_configurations(rows, name, ax)
    for ax in axes[1:]:
        ax.set_ylabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    title = f"FedQuad on {rows['task'].iloc[0]}"
    place = {"loc": "outside upper center", "ncols": len(labels)}
    figure.legend(handles, labels, title=title, title_fontsize=7, **place)
    return figure
