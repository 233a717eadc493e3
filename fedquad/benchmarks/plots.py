"""Time added against bytes kept, and kernels beside a copy: frame in, axes out."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from fedquad.report.style import PALETTE, axes_or_new, finish

_METHODS = {
    "checkpointing": (PALETTE[1], "^"),
    "hooks": (PALETTE[2], "s"),
    "fused": (PALETTE[0], "o"),
    "hooks, 4 bits": (PALETTE[8], "D"),
    "fused, 4 bits": (PALETTE[9], "P"),
}


def kept_against_time(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What each method keeps and what time it adds, a point for every setting.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.benchmarks.frames.compared_frame` makes it.
    """
    ax = axes_or_new(ax)
    for method, (color, marker) in _METHODS.items():
        rows = df[(df["method"] == method) & (df["status"] == "ok")]
        rows = rows.dropna(subset=["kept_percent", "added_wall_percent"])
        if len(rows):
            ax.scatter(
                rows["kept_percent"],
                rows["added_wall_percent"],
                color=color,
                marker=marker,
                s=14,
                label=method,
            )
    ax.axhline(0, color="0.6", linewidth=0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel("bytes kept for backward, % of none")
    ax.set_ylabel("time added to the step, %")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")
    finish(ax)
    return ax


def share_of_copy(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bandwidth of each operation against that of a copy of as many bytes.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.benchmarks.frames.kernel_frame` makes it; of several shapes and
        types of an operation, the one that comes closest to the copy is shown.
    """
    ax = axes_or_new(ax)
    named = df.assign(name=df["operation"].astype(object) + ", " + df["phase"].astype(object))
    named["maker"] = named["implementation"].where(named["implementation"] == "fedquad", "torch")
    table = named.pivot_table(
        index="name", columns="maker", values="share_of_copy", aggfunc="max", sort=False
    )
    heights = range(len(table))
    for maker, offset, color in (("fedquad", -0.2, PALETTE[0]), ("torch", 0.2, PALETTE[7])):
        if maker in table:
            places = [height + offset for height in heights]
            ax.barh(places, 100 * table[maker], height=0.38, color=color, label=maker)
    ax.axvline(100, color="0.6", linewidth=0.6)
    ax.set_yticks(list(heights), table.index, fontsize=5)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("bandwidth, % of a copy")
    if len(table):
        ax.legend(loc="best")
    finish(ax)
    return ax
