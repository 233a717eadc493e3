"""Fig. 1: communication, memory and latency of LoRA against full fine-tuning."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.report.style import (
    LOOKS,
    MEMORY_PARTS,
    axes_or_new,
    bar_look,
    finish,
    new_figure,
    paper_marks,
)

BAR = 0.36


def communication_share(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of communication in a round's time, per network and tuning; log scale.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.communication_frame` makes it.
    """
    ax = axes_or_new(ax)
    networks = list(df["network"].drop_duplicates())
    tunings = list(df["tuning"].drop_duplicates())
    for shift, tuning in zip(_shifts(len(tunings)), tunings, strict=True):
        rows = df[df["tuning"] == tuning].set_index("network").loc[networks]
        x = np.arange(len(networks)) + shift
        bars = ax.bar(x, rows["share_percent"], BAR, **bar_look(tuning))
        ax.bar_label(bars, [f"{v:.2g}" for v in rows["share_percent"]], fontsize=5.5, padding=1)
        stated = rows["paper_percent"].notna().to_numpy()
        if stated.any():
            paper_marks(ax, x[stated], rows["paper_percent"][stated])
    ax.set_yscale("log")
    ax.set_ylim(0.05, 300)
    ax.set_xticks(range(len(networks)), networks)
    ax.set_ylabel("communication, % of a round")
    ax.legend(loc="upper right", ncols=3, columnspacing=0.8)
    finish(ax)
    return ax


def traffic(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Bytes that one device receives and sends in a round, per tuning; log scale."""
    ax = axes_or_new(ax)
    rows = df.drop_duplicates("tuning")
    for x, (tuning, traffic_bytes, share) in enumerate(
        zip(rows["tuning"], rows["bytes_per_round"], _trained_percent(rows), strict=True)
    ):
        bars = ax.bar(x, traffic_bytes / 1e6, 1.4 * BAR, **bar_look(tuning))
        text = f"{_amount(traffic_bytes)}\n{share:.3g} % trained"
        ax.bar_label(bars, [text], fontsize=5.5, padding=1)
    ax.set_yscale("log")
    ax.set_ylim(1, 30_000)
    ax.set_xticks(range(len(rows)), [LOOKS[tuning].label for tuning in rows["tuning"]])
    ax.set_xlim(-0.6, len(rows) - 0.4)
    ax.set_ylabel("traffic of a round, MB")
    finish(ax)
    return ax


def _trained_percent(rows: pd.DataFrame) -> pd.Series:
    """Trained parameters as a percentage of the model's."""
    return 100 * rows["trainable_parameters"] / rows["parameters"]


def memory(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Memory of a step in GB, stacked by what it is spent on; the paper's totals hollow.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.memory_frame` makes it.
    """
    ax = axes_or_new(ax)
    x = np.arange(len(df))
    base = np.zeros(len(df))
    for part in MEMORY_PARTS:
        ax.bar(x, df[part] / 1e9, 1.4 * BAR, bottom=base, **bar_look(part))
        base += df[part].to_numpy() / 1e9
    for at, row in zip(x, df.itertuples(), strict=True):
        text = f"activations {row.activation_share_percent:.1f} %"
        if not np.isnan(row.paper_share_percent):
            text += f"\n(paper {row.paper_share_percent:.1f} %)"
        ax.annotate(
            text, (at, base[at]), (0, 5), textcoords="offset points", ha="center", fontsize=5.5
        )
    stated = df["paper_total_bytes"].notna().to_numpy()
    if stated.any():
        paper_marks(ax, x[stated], df["paper_total_bytes"][stated] / 1e9, "paper, total")
    settings = zip(df["tuning"], df["batch_size"], strict=True)
    ax.set_xticks(x, [f"{LOOKS[tuning].label}\nbatch {batch}" for tuning, batch in settings])
    ax.set_ylim(0, 1.25 * max(base.max(), df["paper_total_bytes"].max() / 1e9))
    ax.set_ylabel("memory, GB")
    ax.legend(loc="upper left")
    finish(ax)
    return ax


def latency(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Work of a step relative to full fine-tuning of the same source, forward and backward.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.tuning_latency_frame` makes it.
    """
    ax = axes_or_new(ax)
    per_unit = df["percent"] / df["total"]  # what one FLOP or second is, in % of full
    x = np.array([0.8 * i + 0.5 * (df["source"].iloc[i] == "measured") for i in range(len(df))])
    forward = df["forward"] * per_unit
    ax.bar(x, forward, 1.4 * BAR, **bar_look("forward"))
    # Optimizer and bookkeeping of a measured step are told with the backward pass.
    backward = df["percent"] - forward
    bars = ax.bar(x, backward, 1.4 * BAR, bottom=forward, **bar_look("backward"))
    shown = [f"{percent:.0f} %" for percent in df["percent"]]
    ax.bar_label(bars, shown, label_type="center", color="white", fontsize=6)
    partial = (df["paper_percent"] < 100).to_numpy()
    paper_marks(ax, x[partial], df["paper_percent"][partial])
    ax.set_xticks(x, [_bar_name(row) for row in df.itertuples()])
    ax.set_ylim(0, 130)
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.set_ylabel("step, % of full fine-tuning")
    ax.legend(loc="upper center", ncols=3)
    finish(ax)
    return ax


def _bar_name(row: object) -> str:
    """Tuning, source and the absolute work of a bar."""
    amount = f"{row.total / 1e12:.1f} TFLOP" if row.unit == "flop" else f"{1e3 * row.total:.0f} ms"
    return f"{LOOKS[row.tuning].label}\n{LOOKS[row.source].label}\n{amount}"


def _amount(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def _shifts(count: int) -> np.ndarray:
    return BAR * (np.arange(count) - (count - 1) / 2)


def compose_communication(df: pd.DataFrame) -> Figure:
    """Fig. 1(a)."""
    figure, axes = new_figure(2)
    communication_share(df, axes[0])
    traffic(df, axes[1])
    return figure


def compose_memory(df: pd.DataFrame) -> Figure:
    """Fig. 1(b)."""
    figure, axes = new_figure(height=2.2)
    memory(df, axes[0])
    return figure


def compose_latency(df: pd.DataFrame) -> Figure:
    """Fig. 1(c)."""
    figure, axes = new_figure()
    latency(df, axes[0])
    return figure
