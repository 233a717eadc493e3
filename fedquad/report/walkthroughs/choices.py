"""What a method gives the devices of one round: configurations, times, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedquad.fleet.fleet import DeviceStatus
from fedquad.methods import create_method
from fedquad.methods.method import History, Method, MethodSetting
from fedquad.report.explorers import Explorer
from fedquad.report.style import DOUBLE_COLUMN, LOOKS, finish, new_figure, paper_style
from fedquad.report.walkthroughs.sliders import explorer, one_of


def choices_frame(
    method: Method, statuses: Sequence[DeviceStatus], history: History
) -> pd.DataFrame:
    """One row a device: what it is assigned, what that costs, and how long it then waits.

    Nothing is trained. A device that is left out has depth 0 and no times.

    Returns
    -------
    DataFrame
        ``device_id, device_class, depth, quantized, memory_budget_bytes,
        memory_bytes, completion_time_s, waiting_time_s``.
    """
    rows = []
    for status, assignment in zip(statuses, method.assign(statuses, history), strict=True):
        row = {
            "device_id": status.device_id,
            "device_class": status.device_class or "device",
            "depth": 0,
            "quantized": 0,
            "memory_budget_bytes": status.memory_budget_bytes,
            "memory_bytes": 0,
            "completion_time_s": np.nan,
        }
        if assignment is not None:
            seconds = method.setting.completion_time_s(assignment, status.flops_per_second)
            row |= {
                "depth": len(assignment.trainable_layers),
                "quantized": len(assignment.quantized_layers),
                "memory_bytes": method.setting.costs.price(assignment).bytes,
                "completion_time_s": seconds,
            }
        rows.append(row)
    frame = pd.DataFrame(rows)
    times = frame["completion_time_s"]
    return frame.assign(waiting_time_s=times.max() - times)


def round_of_choices(df: pd.DataFrame, title: str, ax: Axes) -> Axes:
    """One bar a device: work in the colour of its class, then grey waiting; beside it (d, a)."""
    places = np.arange(len(df))
    for name in df["device_class"].drop_duplicates():
        mine = (df["device_class"] == name).to_numpy()
        look = {"color": LOOKS[name].color, "hatch": LOOKS[name].hatch, "edgecolor": "white"}
        times = df["completion_time_s"][mine]
        ax.barh(places[mine], times, 0.75, linewidth=0.4, label=LOOKS[name].label, **look)
    ax.barh(
        places, df["waiting_time_s"], 0.75, left=df["completion_time_s"], color="0.9", label="waits"
    )
    longest = df["completion_time_s"].max()
    for place, row in zip(places, df.itertuples(), strict=True):
        text = f" ({row.depth}, {row.quantized})" if row.depth else "left out"
        ax.text(longest if row.depth else 0, place, text, va="center", fontsize=5.5)
    ax.set_yticks([])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.25 * longest)
    ax.set_xlabel("time, s")
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_title(f"{title}: waiting {df['waiting_time_s'].mean():.3g} s")
    finish(ax)
    return ax


def choices_figure(frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Rounds side by side: title -> `choices_frame`."""
    with paper_style():
        figure, axes = new_figure(len(frames), width=DOUBLE_COLUMN, height=2.1)
        for ax, (title, df) in zip(axes, frames.items(), strict=True):
            round_of_choices(df, title, ax)
        axes[0].set_ylabel("devices, with $(d, a)$")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.draw_without_rendering()
    return figure


def explore_option(
    name: str,
    setting: MethodSetting,
    statuses: Sequence[DeviceStatus],
    history: History,
    *,
    option: str,
    values: Sequence[float],
    still: Sequence[float],
) -> Explorer:
    """A slider over an option of a method, and what the method then gives the devices.

    Parameters
    ----------
    name : str
        As `fedquad.methods.find_method` takes it.
    option : str
        One of the method's ``defaults``.
    values : sequence of float
        Of the slider, which begins in the middle.
    still : sequence of float
        Side by side in the still picture.
    """

    def draw(shown: Sequence[float]) -> Figure:
        methods = {value: create_method(name, setting, {option: value}) for value in shown}
        frames = {
            f"{option} {value:g}": choices_frame(method, statuses, history)
            for value, method in methods.items()
        }
        return choices_figure(frames)

    sliders = {"value": one_of(option, values, values[len(values) // 2])}
    return explorer(lambda value: draw([value]), sliders, draw(still))
