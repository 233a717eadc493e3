"""How every figure looks: sizes, one appearance per name, the paper's marks, the stamp."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Widths of one and two columns of the paper's journal, in inches.
SINGLE_COLUMN = 3.5
DOUBLE_COLUMN = 7.16

PALETTE = [tuple(color) for color in sns.color_palette("colorblind")]
PAPER_COLOR = "0.15"

# What memory is spent on, in the order in which it is stacked.
MEMORY_PARTS = ["weight_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes"]


@dataclass(frozen=True)
class Look:
    """Appearance of one name in every figure; told apart in grey by marker, line and hatch."""

    label: str
    color: tuple[float, float, float]
    marker: str = "o"
    linestyle: str = "-"
    hatch: str = ""


LOOKS: dict[str, Look] = {
    # tuning
    "lora": Look("LoRA", PALETTE[0], "o", "-"),
    "full": Look("full", PALETTE[7], "s", "--", "//"),
    # positions of the trained layers
    "A": Look("Layers-A", PALETTE[7], "o"),
    "S": Look("Layers-S", PALETTE[1], "^"),
    "M": Look("Layers-M", PALETTE[2], "s"),
    "D": Look("Layers-D", PALETTE[0], "D"),
    "MD": Look("Layers-M+D", PALETTE[4], "P"),
    # what memory is spent on
    "weight_bytes": Look("weights", PALETTE[7], hatch="//"),
    "gradient_bytes": Look("gradients", PALETTE[1], hatch="xx"),
    "optimizer_bytes": Look("optimizer", PALETTE[4], hatch=".."),
    "activation_bytes": Look("activations", PALETTE[0]),
    # where seconds or operations come from
    "forward": Look("forward", PALETTE[9]),
    "backward": Look("backward", PALETTE[0]),
    "quantization": Look("quantization", PALETTE[1], hatch="//"),
    "accounting": Look("memory", PALETTE[0], "o", "-"),
    "flops": Look("FLOPs", PALETTE[2], "s", "-"),
    "measured": Look("measured", PALETTE[3], "^", ":"),
    # what a quantized layer saves: counted on the blocks that are stored, or the paper's 58 %
    "int8_blocks": Look("INT8 blocks", PALETTE[0], "o", "-"),
    "paper_saving": Look("paper's saving", PALETTE[7], "", "--", "//"),
    "checkpointing": Look("checkpointing", PALETTE[1], "v", ":"),
    # federated methods: one look in every figure; FedLoRA is the unconstrained reference
    "fedquad": Look("FedQuad", PALETTE[0], "o", "-"),
    "fedra": Look("FedRA", PALETTE[1], "s", "--", "//"),
    "inclusivefl": Look("InclusiveFL", PALETTE[2], "^", "-.", "xx"),
    "layersel": Look("LayerSel", PALETTE[3], "D", ":", ".."),
    "hetlora": Look("HetLoRA", PALETTE[4], "v", "--", "\\\\"),
    "fedlora": Look("FedLoRA", PALETTE[7], "", "-", "||"),
    "fedquad-no-qd": Look("FedQuad w/o QD", PALETTE[9], "s", "--", "//"),
    "fedquad-no-ld": Look("FedQuad w/o LD", PALETTE[5], "^", ":", ".."),
    # classes of devices; those of a fleet from a file have none
    "strong": Look("strong", PALETTE[0], "^"),
    "moderate": Look("moderate", PALETTE[1], "s", "--", "//"),
    "weak": Look("weak", PALETTE[2], "o", ":", "xx"),
    "device": Look("device", PALETTE[0], "o"),
}

_RC = {
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "font.size": 7,
    "legend.fontsize": 5.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.25,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """The style of every figure, for the duration of a ``with`` block only."""
    with sns.plotting_context("paper"), sns.axes_style("ticks"), plt.rc_context(_RC):
        yield


def new_figure(
    num_panels: int = 1,
    *,
    num_rows: int = 1,
    width: float = SINGLE_COLUMN,
    height: float = 2.0,
) -> tuple[Figure, list[Axes]]:
    """A figure of the paper's column width, in inches, with ``num_panels`` side by side.

    With ``num_rows`` there are as many in every row; they come row by row.

    pyplot forgets it at once: nothing shows it unasked and nobody has to close it,
    while a notebook that ends a cell with the figure still displays it.
    """
    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    axes = figure.subplots(num_rows, num_panels, squeeze=False)
    return figure, list(axes.flat)


def axes_or_new(ax: Axes | None) -> Axes:
    """The given axes, or those of a new single-column figure."""
    return new_figure()[1][0] if ax is None else ax


def finish(ax: Axes) -> None:
    """Remove the frame's upper and right side."""
    sns.despine(ax=ax)


def bar_look(name: str) -> dict[str, object]:
    """Keywords that give a bar the appearance of ``name``."""
    look = LOOKS[name]
    return {
        "color": look.color,
        "hatch": look.hatch,
        "edgecolor": "white",
        "linewidth": 0.4,
        "label": look.label,
    }


def line_look(name: str) -> dict[str, object]:
    """Keywords that give a line the appearance of ``name``."""
    look = LOOKS[name]
    return {
        "color": look.color,
        "marker": look.marker,
        "linestyle": look.linestyle,
        "label": look.label,
    }


def paper_marks(ax: Axes, x: object, y: object, label: str = "paper") -> Line2D:
    """The paper's own values as hollow markers with a legend entry of their own."""
    (marks,) = ax.plot(
        x,
        y,
        linestyle="none",
        marker="o",
        markersize=5,
        markerfacecolor="white",
        markeredgecolor=PAPER_COLOR,
        markeredgewidth=0.9,
        label=label,
        zorder=5,
    )
    return marks


def stamp_text(df: pd.DataFrame) -> str:
    """What a figure says about its origin, from the columns of its frame.

    The profile; then, of runs, the seeds, the trained model and, where times
    are simulated, the model and the throughput of the clock; of costs the
    reference model of the accounting and, apart from it, the model that was
    timed; and whether numbers were computed now or read from the record.

    Runs have a row per ``seed``, or rows that say of how many (``num_seeds``).
    """
    parts = [f"profile {df['profile'].iloc[0]}"]
    if "seed" in df or "num_seeds" in df:
        by_task = df.groupby("task", sort=False)
        seeds = by_task["seed"].nunique() if "seed" in df else by_task["num_seeds"].min()
        if seeds.nunique() == 1:
            parts.append(_plural(seeds.iloc[0], "seed"))
        else:
            parts.append(", ".join(f"{task}: {_plural(n, 'seed')}" for task, n in seeds.items()))
        parts.append("trained: " + ", ".join(df["model"].unique()))
        if "reference_model" in df:
            clock = ", ".join(df["reference_model"].unique())
            parts.append(f"clock: {clock} ({', '.join(df['throughput_model'].unique())})")
        parts.append(_origin(df))
        return " · ".join(parts)
    measured = df["source"] == "measured" if "source" in df else pd.Series(False, df.index)
    if not measured.all():
        models = ", ".join(df.loc[~measured, "model"].unique())
        parts.append(f"accounting: {models} ({_origin(df[~measured])})")
    if measured.any():
        pairs = df.loc[measured, ["model", "torch_device"]].drop_duplicates()
        timed = ", ".join(f"{model} on {device}" for model, device in pairs.to_numpy())
        parts.append(f"measured: {timed} ({_origin(df[measured])})")
    return " · ".join(parts)


def _origin(df: pd.DataFrame) -> str:
    """Where the numbers of these rows come from."""
    now = int((~df["from_record"].astype(bool)).sum())
    if now in (0, len(df)):
        return "computed now" if now else "read from the record"
    return f"{now} of {len(df)} computed now, the others read from the record"


def stamp(figure: Figure, df: pd.DataFrame) -> None:
    """Write `stamp_text` under the panels."""
    # About 26 characters of 5 pt text go into an inch.
    lines = textwrap.wrap(stamp_text(df), width=int(26 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=5, color="0.35", x=0.99, ha="right")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
