"""Fig. 5: the workflow of one round, drawn from its record."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.report.style import LOOKS, PAPER_COLOR, axes_or_new, bar_look, finish, new_figure

ANNOTATED_DEVICES = 40  # more rows than this leave no room for text
STEP_LINES = 8


def timeline(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One row a device: its completion time as a bar, then the wait for the slowest.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.workflow_frame` makes it.
    """
    ax = axes_or_new(ax)
    y = np.arange(len(df))
    seconds, waits = df["completion_time_s"].to_numpy(), df["waiting_time_s"].to_numpy()
    for device_class, rows in df.groupby("device_class", sort=False):
        at = rows.index.to_numpy()
        ax.barh(at, seconds[at], 0.8, **class_look(device_class))
    ax.barh(y, waits, 0.8, left=seconds, color="0.92", edgecolor="0.8", linewidth=0.4, label="wait")
    mean, end = seconds.mean(), seconds.max()
    ax.axvline(mean, color=PAPER_COLOR, linestyle="--", linewidth=0.9, label="$t_{avg}$")
    ax.axvline(end, color=PAPER_COLOR, linewidth=0.9, label="$t_h$")
    if len(df) <= ANNOTATED_DEVICES:
        for at, row in enumerate(df.itertuples()):
            text = f"({row.depth}, {row.quantized})"
            ax.annotate(
                text,
                (end, at),
                (2, 0),
                textcoords="offset points",
                fontsize=4.5,
                va="center",
                annotation_clip=False,
            )
        ax.annotate(
            "$(d, a)$",
            (end, -1),
            (2, 0),
            textcoords="offset points",
            fontsize=5,
            va="center",
            annotation_clip=False,
        )
    ax.set_yticks(_class_middles(df), df["device_class"].drop_duplicates())
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(df) - 0.4, -1.5)
    ax.set_xlim(0, 1.14 * end)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"simulated time of round {df['round'].iloc[0]}, s")
    handles, labels = ax.get_legend_handles_labels()
    place = {"loc": "lower center", "bbox_to_anchor": (0.45, 1), "columnspacing": 1.0}
    ax.legend(handles, labels, ncols=len(labels), **place).set_in_layout(False)
    finish(ax)
    return ax


def _class_middles(df: pd.DataFrame) -> list[float]:
    return [rows.index.to_numpy().mean() for _, rows in df.groupby("device_class", sort=False)]


def class_look(device_class: str) -> dict[str, object]:
    """Keywords of a bar for a device class; devices without one look like any bar."""
    return bar_look(device_class if device_class in LOOKS else "device")


def steps(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The paper's seven steps with what really was reported, chosen, sent and averaged."""
    ax = axes_or_new(ax)
    ax.set_axis_off()
    lines = step_texts(df)
    for at, (numbers, name, text) in enumerate(lines):
        y = 1 - (at + 0.5) / STEP_LINES
        # Beginning left of the axes, under the names of the classes; the layout may ignore it.
        common = {"transform": ax.transAxes, "fontsize": 5.5, "va": "center", "in_layout": False}
        ax.text(-0.11, y, numbers, ha="right", fontweight="bold", **common)
        ax.text(-0.09, y, name, fontweight="bold", **common)
        ax.text(0.145, y, text, **common)
    return ax


def step_texts(df: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Number, name and content of each step of the round."""
    layers, count = int(df["num_layers"].iloc[0]), len(df)
    holders = [int((df["depth"] >= layers - layer).sum()) for layer in range(layers)]
    slowest = df.loc[df["completion_time_s"].idxmax()]
    skipped = int(df["skipped"].iloc[0])
    absent = f"; {skipped} that fit nothing are left out" if skipped else ""
    budget, speed = df["memory_budget_bytes"] / 1e9, df["flops_per_second"] / 1e12
    return [
        (
            "1",
            "status",
            f"{count} devices report {_range(budget, '.1f')} GB "
            f"and {_range(speed, '.2f')} TFLOP/s{absent}",
        ),
        (
            "2",
            "configuration",
            f"LoRA depth {_range(df['depth'], 'd')} of {layers}, "
            f"{_range(df['quantized'], 'd')} layers quantized",
        ),
        (
            "3",
            "dissemination",
            f"{_megabytes(df['download_bytes'].sum())} of LoRA and head to all devices",
        ),
        ("4", "adjustment", "layers are unfrozen and quantized as configured"),
        (
            "",
            "fine-tuning",
            f"{df['completion_time_s'].mean():.0f} s on average, "
            f"{slowest['completion_time_s']:.0f} s on the slowest ({_named(slowest)})",
        ),
        (
            "5, 6",
            "upload",
            f"{_megabytes(df['upload_bytes'].sum())} of trained LoRA layers and heads, and status",
        ),
        (
            "7",
            "aggregation",
            f"layer {layers - 1} from {holders[-1]} devices, layer {layers // 2} from "
            f"{holders[layers // 2]}, layer 0 from {holders[0]}",
        ),
        (
            "",
            "waiting",
            f"{df['waiting_time_s'].mean():.0f} s on average (Eq. 13)",
        ),
    ]


def _named(row: pd.Series) -> str:
    mode = "" if pd.isna(row["mode"]) else row["mode"]
    return f"{row['device_class']}, {mode}" if mode else f"{row['device_class']}"


def _range(values: pd.Series, spec: str) -> str:
    low, high = (format(value, spec) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.3g} MB"


def compose_workflow(df: pd.DataFrame) -> Figure:
    """Fig. 5."""
    rows = min(len(df), ANNOTATED_DEVICES)
    figure, (above, below) = new_figure(num_rows=2, height=2.0 + 0.085 * rows)
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.96))  # room for the legend
    above.get_gridspec().set_height_ratios([0.9 + 0.085 * rows, 1.0])
    timeline(df, above)
    steps(df, below)
    return figure
