"""What the formulas of Algorithm 1 predict: the straggler's choice and the fixed point."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquad.report.figures.fig06 import CHOSEN
from fedquad.report.style import PALETTE, axes_or_new, finish, new_figure

_LOOKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", "-"), ("P", "--"))


def straggler_reward(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Reward over depth of a device that is slower than t_avg at every depth; stars are chosen.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.predictions_frame` makes it.
    """
    ax = axes_or_new(ax)
    rows = df[df["panel"] == "straggler"]
    for index, (share, curve) in enumerate(rows.groupby("mean_time_share", sort=False)):
        percent = 100 * curve["reward"] / curve["reward"].max()
        marker, linestyle = _LOOKS[index % len(_LOOKS)]
        color = PALETTE[index]
        label = f"$t_{{avg}}$ = {share:g} $t(1, 0)$"
        look = {"color": color, "marker": marker, "linestyle": linestyle, "markersize": 3}
        ax.plot(curve["depth"], percent, label=label, **look)
        chosen = curve[curve["chosen"].astype(bool)]
        star = {**CHOSEN, "linestyle": "none", "color": color, "zorder": 5}
        ax.plot(chosen["depth"], [100] * len(chosen), **star)
    budget = int(rows["depth_budget"].iloc[0])
    ax.axvline(budget + 0.5, ymax=0.7, color="0.5", linestyle=":", linewidth=0.9)
    ax.annotate(
        "quantized",
        (budget + 0.5, 2),
        (2, 0),
        textcoords="offset points",
        fontsize=5,
        color="0.35",
    )
    ax.set_ylim(0, 148)
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.set_ylabel("reward, % of the largest")
    ax.set_xlabel("LoRA depth")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    ax.legend(loc="upper left")
    ax.set_title("slower than $t_{avg}$")
    finish(ax)
    return ax


def fixed_point(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean completion time over the rounds on equal devices, from several first t_avg."""
    ax = axes_or_new(ax)
    rows = df[df["panel"] == "fixed point"]
    for index, (start, curve) in enumerate(rows.groupby("start_depth", sort=False)):
        marker, linestyle = _LOOKS[index % len(_LOOKS)]
        look = {"color": PALETTE[index], "marker": marker, "linestyle": linestyle}
        ax.plot(curve["round"], curve["mean_time_s"], markersize=3, **look)
        last = curve.iloc[-1]
        ax.annotate(
            f"from $t({start:.0f}, 0)$: depth {last['depth']:.0f}",
            (0.0, last["mean_time_s"]),
            (0, 4),
            textcoords="offset points",
            fontsize=5.5,
        )
    ax.set_ylim(0, 1.15 * rows["mean_time_s"].max())
    ax.set_ylabel("mean completion time, s")
    ax.set_xlabel("round (0: the first $t_{avg}$)")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_title("equal devices")
    finish(ax)
    return ax


def compose_predictions(df: pd.DataFrame) -> Figure:
    """Both predictions side by side."""
    figure, axes = new_figure(2, height=2.2)
    straggler_reward(df, axes[0])
    fixed_point(df, axes[1])
    return figure
