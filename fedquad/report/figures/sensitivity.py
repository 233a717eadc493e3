"""Sensitivity: what one varied setting does, and how far the greedy choice is from the optimum."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquad.report.figures.accuracy import error_lengths
from fedquad.report.intervals import Bootstrap, Estimate
from fedquad.report.seed_intervals import over_seeds
from fedquad.report.style import (
    DOUBLE_COLUMN,
    PALETTE,
    axes_or_new,
    finish,
    line_look,
    new_figure,
)

MEASURES = {
    "accuracy": "accuracy, %",
    "sim_time_s": "simulated time, 10³ s",
    "mean_waiting_time_s": "waiting, s a round",
    "mean_depth": "mean LoRA depth",
}
SETTING_NAMES = {
    "reward_offset_s": "reward offset $c$, s",
    "first_mean_time_scale": "first $t_{avg}$, times the default",
    "waiting_limit_s": "waiting limit θ, s (0: none)",
    "partition_alpha": "Dirichlet alpha",
    "lora_rank": "LoRA rank",
    "throughput_model": "throughput model",
    "quantization_price": "price of quantization",
    "budget_policy": "budget policy",
    "rate_schedule": "cosine falls over",
    "local_steps": "local steps",
    "heterogeneity": "heterogeneity",
}
CHOICES = {
    "greedy": ("Algorithm 1", "o", "-", 0),
    "fastest": ("fastest, no less gain", "s", "--", 1),
    "most_rewarding": ("highest reward", "^", ":", 2),
}


def sensitivity(df: pd.DataFrame, measure: str, ax: Axes | None = None) -> Axes:
    """One measure against one varied setting, one line a method, with 95 % intervals.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.sensitivity_frame` makes it, of one task.
    measure : str
        A key of `MEASURES`.
    """
    ax = axes_or_new(ax)
    methods = list(df["method"].drop_duplicates())
    values = df.drop_duplicates("position").sort_values("position")
    for index, method in enumerate(methods):
        rows = df[df["method"] == method]
        points = {at: _estimate(part, measure) for at, part in rows.groupby("position")}
        shift = 0.08 * (index - (len(methods) - 1) / 2)
        table = pd.DataFrame(
            [{"value": e.value, "low": e.low, "high": e.high} for e in points.values()]
        )
        look = {**line_look(method), "markersize": 3, "linewidth": 0.9}
        x = [at + shift for at in points]
        ax.errorbar(x, table["value"], error_lengths(table), capsize=1.5, elinewidth=0.8, **look)
    ax.set_xticks(values["position"], values["setting_value"])
    for label, is_default in zip(ax.get_xticklabels(), values["is_default"], strict=True):
        label.set_fontweight("bold" if is_default else "normal")
    ax.set_xlim(values["position"].min() - 0.4, values["position"].max() + 0.4)
    ax.margins(y=0.15)
    if measure != "accuracy":
        ax.set_ylim(0, 1.15 * ax.dataLim.y1)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
    setting = df["setting"].iloc[0]
    ax.set_xlabel(SETTING_NAMES.get(setting, setting.replace("_", " ")))
    ax.set_ylabel(MEASURES[measure])
    finish(ax)
    return ax


def _estimate(rows: pd.DataFrame, measure: str) -> Estimate:
    """Of the runs of one method at one value: over seeds, and over test items for accuracy."""
    if measure == "accuracy":
        return Bootstrap.from_frame(rows, "method").estimate(rows["method"].iloc[0])
    scale = 1e-3 if measure == "sim_time_s" else 1.0
    return over_seeds(scale * rows[measure].to_numpy(), lambda mean: mean, "")


def shown(df: pd.DataFrame) -> pd.DataFrame:
    """The rows that `compose_sensitivity` draws: those of the first task."""
    return df[df["task"] == df["task"].iloc[0]]


def compose_sensitivity(df: pd.DataFrame) -> Figure:
    """A row a setting, a column a measure. Defaults are in bold."""
    df = shown(df)
    settings = list(df["setting"].drop_duplicates())
    height = 0.5 + 1.3 * len(settings)
    figure, axes = new_figure(
        len(MEASURES), num_rows=len(settings), width=DOUBLE_COLUMN, height=height
    )
    panels = iter(axes)
    for setting in settings:
        for measure in MEASURES:
            sensitivity(df[df["setting"] == setting], measure, next(panels))
    entries: dict[str, object] = {}
    for ax in axes:
        marks = zip(*ax.get_legend_handles_labels(), strict=True)
        entries |= {label: handle for handle, label in marks}
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=len(entries),
        title=f"trained on {df['task'].iloc[0]}; default in bold",
        title_fontsize=6,
    )
    return figure


def yardstick_times(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Round time of Algorithm 1 and of the two optima, round by round.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.yardstick_frame` makes it.
    """
    ax = _choice_lines(df, "round_time_s", axes_or_new(ax))
    ax.set_ylabel("round time $t_h$, s")
    ax.set_ylim(0, 1.5 * df["round_time_s"].max())
    ax.legend(loc="upper left")
    return ax


def yardstick_gains(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean expected gain as a percentage of Algorithm 1's."""
    greedy = df[df["choice"] == "greedy"].set_index("round")["mean_expected_gain"]
    percent = 100 * df["mean_expected_gain"] / df["round"].map(greedy)
    ax = _choice_lines(df.assign(percent=percent), "percent", axes_or_new(ax))
    ax.set_ylabel("mean gain, % of Algorithm 1's")
    ax.margins(y=0.2)
    return ax


def yardstick_rewards(df: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean over devices of the reward, as a percentage of the highest one there is."""
    ax = _choice_lines(df, "reward_percent", axes_or_new(ax))
    ax.set_ylabel("reward, % of the highest")
    ax.set_ylim(0, 110)
    return ax


def _choice_lines(df: pd.DataFrame, column: str, ax: Axes) -> Axes:
    for choice, rows in df.groupby("choice", sort=False):
        label, marker, linestyle, color = CHOICES[choice]
        look = {"marker": marker, "linestyle": linestyle, "color": PALETTE[color], "label": label}
        if choice == "greedy":  # wide, so that it is seen under the others
            look |= {"linewidth": 2.5, "alpha": 0.6}
        ax.plot(rows["round"], rows[column], markersize=3, **look)
    ax.set_xlabel("round")
    ax.set_xlim(df["round"].min() - 0.5, df["round"].max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    finish(ax)
    return ax


def compose_yardstick(df: pd.DataFrame) -> Figure:
    """The distance of the greedy choice from the yardstick."""
    figure, axes = new_figure(3, width=DOUBLE_COLUMN, height=2.1)
    yardstick_times(df, axes[0])
    yardstick_gains(df, axes[1])
    yardstick_rewards(df, axes[2])
    return figure
