"""Fig. 10: FedQuad without quantization, and without the choice of depth."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fedquad.report.figures.fig07 import accuracy_over_time, shared_legend
from fedquad.report.figures.fig08 import speedups, time_bars
from fedquad.report.frames.fig08 import ablation_summary
from fedquad.report.style import new_figure


def compose(df: pd.DataFrame) -> Figure:
    """Curves of up to two tasks above; time to the target and speed-up below.

    Parameters
    ----------
    df : DataFrame
        As `fedquad.report.frames.ablation_curves_frame` makes it.
    """
    tasks = list(df["task"].drop_duplicates())[:2]
    figure, axes = new_figure(2, num_rows=2, height=3.7)
    for at, ax in enumerate(axes[:2]):
        ax.set_visible(at < len(tasks))
    for ax, task in zip(axes, tasks, strict=False):
        accuracy_over_time(df[df["task"] == task], ax)
        ax.set_title(task)
    axes[1].set_ylabel("")
    summary = ablation_summary(df[df["task"].isin(tasks)])
    time_bars(summary.drop(columns="speedup"), axes[2])  # they have the panel beside it
    speedups(summary, axes[3])
    shared_legend(figure, axes)
    return figure
