"""Figures of the walkthrough of activation quantization."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from fedquad.report.style import (
    PALETTE,
    axes_or_new,
    bar_look,
    finish,
    new_figure,
)

BLOCK = 32
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")


def kept_bytes(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bytes that each operation of a layer keeps, with and without quantization.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.walkthrough.kept_bytes_frame` makes it.
    """
    ax = axes_or_new(ax)
    y = np.arange(len(df))
    plain = {**bar_look("full"), "label": "as it is"}
    ax.barh(y - 0.2, df["unquantized_bytes"] / 1e6, 0.4, **plain)
    bars = ax.barh(y + 0.2, df["kept_bytes"] / 1e6, 0.4, **bar_look("int8_blocks"))
    share = 100 * df["kept_bytes"] / df["unquantized_bytes"]
    ax.bar_label(bars, [f"{percent:.0f} %" for percent in share], fontsize=5.5, padding=2)
    ax.set_yticks(y, df["place"], fontsize=5.5)
    ax.invert_yaxis()
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("kept for backward, MB")
    ax.legend(loc="lower right")
    finish(ax)
    return ax


def heat_map(df: pd.DataFrame, what: str, ax: Axes | None = None) -> Axes:
    """One piece of an activation as colours; lines are the borders of its blocks.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.walkthrough.heat_map_frame` makes it.
    what : {"before", "after", "error"}
        Values, values after the round trip, or their difference (colours of its
        own). Colours are full at the largest 1 % of the absolute values.
    """
    ax = axes_or_new(ax)
    values = df["after"] - df["before"] if what == "error" else df[what]
    shape = df["row"].max() + 1, df["col"].max() + 1
    limit = (values if what == "error" else df["before"]).abs().quantile(0.99)
    colors = {"cmap": "PuOr" if what == "error" else "RdBu_r", "vmin": -limit, "vmax": limit}
    image = ax.imshow(values.to_numpy().reshape(shape), interpolation="nearest", **colors)
    for edge in range(BLOCK, max(shape), BLOCK):
        ax.axhline(edge - 0.5, color="0.3", linewidth=0.5)
        ax.axvline(edge - 0.5, color="0.3", linewidth=0.5)
    ax.grid(visible=False)
    ax.set_xticks([])
    ax.set_yticks([])
    titles = {"before": "activation", "after": "after INT8 blocks", "error": "error"}
    ax.set_title(titles[what])
    bar = ax.figure.colorbar(image, ax=ax, orientation="horizontal", pad=0.03, shrink=0.9)
    bar.ax.tick_params(labelsize=5)
    bar.locator = MaxNLocator(nbins=3)
    bar.update_ticks()
    return ax


def rounding_error(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How rounding errors are spread, in scales of their block.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.walkthrough.rounding_error_frame` makes it.
    """
    ax = axes_or_new(ax)
    for index, (name, rows) in enumerate(df.groupby("tensor", sort=False)):
        look = {"color": PALETTE[index], "linestyle": _LINES[index], "label": name}
        ax.step(rows["error_scales"], rows["density"], where="mid", **look)
    ax.set_ylim(0, 1.4 * df["density"].max())
    ax.set_xlabel("error, in scales of its block")
    ax.set_ylabel("density")
    ax.legend(loc="upper right", ncols=2)
    finish(ax)
    return ax


def block_size(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Relative error against the size of the blocks, for each tensor and number of bits.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.walkthrough.block_size_frame` makes it.
    """
    ax = axes_or_new(ax)
    for index, name in enumerate(df["tensor"].drop_duplicates()):
        for line, bits in enumerate(sorted(df["bits"].unique(), reverse=True)):
            rows = df[(df["tensor"] == name) & (df["bits"] == bits)]
            look = {"marker": _MARKERS[index], "linestyle": _LINES[line], "color": PALETTE[index]}
            ax.plot(rows["block_size"], rows["error_percent"], label=f"{name}, {bits} bits", **look)
    sizes = sorted(df["block_size"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, sizes)
    ax.xaxis.set_minor_locator(NullLocator())
    _percent_axis(ax)
    ax.set_xlabel("block size")
    ax.set_ylabel("relative error, %")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3)
    finish(ax)
    return ax


def gradient_error(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Relative error of each layer's LoRA gradient, for each number of bits.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.walkthrough.gradient_error_frame` makes it.
    """
    ax = axes_or_new(ax)
    shown = df[df["error_percent"] > 0]  # above the quantized layers a gradient is exact
    for index, (bits, rows) in enumerate(shown.groupby("bits", sort=False)):
        look = {"marker": _MARKERS[index], "linestyle": _LINES[index], "color": PALETTE[index]}
        ax.plot(rows["layer"], rows["error_percent"], label=f"{bits} bits", **look)
    _percent_axis(ax)
    ax.set_xlabel("layer")
    ax.set_xlim(df["layer"].min() - 0.5, df["layer"].max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    ax.set_ylabel("error of the gradient, %")
    ax.legend(loc="center right", handlelength=3)
    finish(ax)
    return ax


def _percent_axis(ax: Axes) -> None:
    """Logarithmic, with plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def compose_kept_bytes(df: pd.DataFrame) -> Figure:
    """What one layer keeps."""
    figure, axes = new_figure(height=2.2)
    kept_bytes(df, axes[0])
    return figure


def compose_heat_map(df: pd.DataFrame) -> Figure:
    """An activation, after the round trip, and the error."""
    figure, axes = new_figure(3, height=1.9)
    for ax, what in zip(axes, ("before", "after", "error"), strict=True):
        heat_map(df, what, ax)
    return figure


def compose_rounding_error(df: pd.DataFrame) -> Figure:
    """Histogram of rounding errors."""
    figure, axes = new_figure(height=1.8)
    rounding_error(df, axes[0])
    return figure


def compose_block_size(df: pd.DataFrame) -> Figure:
    """Error against block size and bits."""
    figure, axes = new_figure()
    block_size(df, axes[0])
    return figure


def compose_gradient_error(df: pd.DataFrame) -> Figure:
    """Error of the gradient by layer."""
    figure, axes = new_figure()
    gradient_error(df, axes[0])
    return figure
