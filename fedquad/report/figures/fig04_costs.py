"""Fig. 4, costs: what quantized layers save, and what depth bought by them costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquad.report.style import (
    LOOKS,
    PAPER_COLOR,
    axes_or_new,
    bar_look,
    finish,
    line_look,
    new_figure,
    paper_marks,
)

BAR = 0.42


def quantized_memory(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Memory of a step at full depth against the number of quantized layers.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.quantized_memory_frame` makes it.
    """
    ax = axes_or_new(ax)
    cut = {"counted": df.loc[df["saving"] == "counted", "cut_percent"].iloc[-1]}
    cut["paper"] = df["paper_cut_percent"].iloc[0]
    for saving, name in (("counted", "int8_blocks"), ("paper", "paper_saving")):
        rows = df[df["saving"] == saving]
        look = {
            **line_look(name),
            "label": f"{LOOKS[name].label}: {cut[saving]:.0f} % less a layer",
        }
        ax.plot(rows["quantized"], rows["total"] / 1e9, **look)
    checkpointed = df.loc[df["saving"] == "checkpointing", "total"].iloc[0] / 1e9
    look = line_look("checkpointing")
    ax.axhline(checkpointed, **{**look, "marker": "", "label": "every layer checkpointed"})
    layer_axis(ax)
    ax.set_ylim(0, 1.3 * df["total"].max() / 1e9)
    ax.set_ylabel("memory, GB")
    ax.legend(loc="upper right")
    finish(ax)
    return ax


def synergy_memory(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Memory of the configurations as a percentage of the first: by the paper's saving, by ours.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.synergy_cost_frame` makes it.
    """
    ax = axes_or_new(ax)
    points = df[df["source"] == "flops"]
    for shift, (saving, name) in zip(
        (-BAR / 2, BAR / 2), (("counted", "int8_blocks"), ("paper", "paper_saving")), strict=True
    ):
        rows = df[df["saving"] == saving]
        bars = ax.bar(np.arange(len(rows)) + shift, rows["percent"], BAR, **bar_look(name))
        ax.bar_label(bars, fmt="%.0f", fontsize=5, label_type="center", color="white")
    ax.axhline(100, color=PAPER_COLOR, linewidth=0.8, linestyle="--")
    point_axis(ax, points)
    ax.set_ylim(0, 150)
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.set_ylabel(f"memory, % of {points['point'].iloc[0]}")
    ax.legend(loc="upper left")
    finish(ax)
    return ax


def synergy_latency(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Work of a step as a percentage of the second configuration: Eq. 6, measured, the paper's."""
    ax = axes_or_new(ax)
    flops = df[df["source"] == "flops"]
    x = np.arange(len(flops))
    per_unit = flops["percent"] / flops["total"]
    base = np.zeros(len(flops))
    for part in ("forward", "backward", "quantization"):
        ax.bar(x, flops[part] * per_unit, 0.6, bottom=base, **bar_look(part))
        base += (flops[part] * per_unit).to_numpy()
    measured = df[df["source"] == "measured"].set_index("position")
    if len(measured):
        look = LOOKS["measured"]
        ax.plot(
            x + 0.15,
            measured["percent"].reindex(flops["position"]),
            linestyle="none",
            marker=look.marker,
            markersize=4,
            color=look.color,
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=look.label,
            zorder=4,
        )
    stated = flops["paper_percent"].notna().to_numpy()
    paper_marks(ax, x[stated] - 0.15, flops["paper_percent"][stated])
    point_axis(ax, flops, measured)
    ax.set_ylim(0, 250)
    ax.set_yticks([0, 50, 100, 150])
    ax.set_ylabel(f"step, % of {flops['point'].iloc[1]}")
    ax.legend(loc="upper left", ncols=2)
    finish(ax)
    return ax


def layer_axis(ax: Axes) -> None:
    """x is the number of quantized layers."""
    ax.set_xlabel("quantized layers")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def point_axis(ax: Axes, points: pd.DataFrame, measured: pd.DataFrame | None = None) -> None:
    """x is the position of the configurations; those of a measured model below, if other ones."""
    labels = list(points["point"])
    if measured is not None and len(measured):
        own = measured["point"].reindex(points["position"])
        pairs = zip(labels, own, strict=True)
        labels = [
            label if label == other else f"{label}\n[{other[1:-1]}]" for label, other in pairs
        ]
    ax.set_xticks(range(len(points)), labels)
    ax.set_xlim(-0.6, len(points) - 0.4)
    ax.set_xlabel("(depth, quantized layers)")


def compose_memory(df: pd.DataFrame) -> Figure:
    """Fig. 4(a), memory."""
    figure, axes = new_figure()
    quantized_memory(df, axes[0])
    return figure


def compose_synergy_cost(df: pd.DataFrame) -> Figure:
    """Fig. 4(b), memory and latency."""
    figure, axes = new_figure(2)
    synergy_memory(df, axes[0])
    synergy_latency(df, axes[1])
    return figure
