"""Figures with sliders, for a live notebook; anywhere else the same as a still picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from fedquad.cost.layer_costs import LayerCosts
from fedquad.methods.selection_problem import SelectionProblem
from fedquad.report.figures.fig06 import PANELS, draw_selection
from fedquad.report.frames.selection import selection_frame
from fedquad.report.style import DOUBLE_COLUMN, new_figure, paper_style

STILL_DPI = 150


def explored_frame(
    costs: LayerCosts,
    settings: Sequence[tuple[float, float, float]],
    *,
    gradient_norms: Sequence[float] | None = None,
    local_steps: int = 1,
) -> pd.DataFrame:
    """Algorithm 1 on made devices, each with its own t_avg.

    Parameters
    ----------
    costs : LayerCosts
    settings : sequence of (float, float, float)
        Per device: memory budget in GB (10^9 bytes), speed in TFLOP/s, t_avg in seconds.
    gradient_norms : sequence of float or None
        One a layer, the layer at the input first; None means all equal.
    local_steps : int
        Of a round.

    Returns
    -------
    DataFrame
        As `fedquad.report.frames.selection_frame`.
    """
    norms = np.ones(costs.num_layers) if gradient_norms is None else np.asarray(gradient_norms)
    parts = []
    for at, (memory_gb, tflop_per_s, mean_time_s) in enumerate(settings):
        problem = SelectionProblem(
            costs=costs,
            memory_budget_bytes=[round(memory_gb * 1e9)],
            flops_per_second=[tflop_per_s * 1e12],
            gradient_norms=norms,
            mean_completion_time_s=float(mean_time_s),
            local_steps=local_steps,
        )
        parts.append(selection_frame(problem, [f"device {at + 1}"]))
    return pd.concat(parts, ignore_index=True)


def selection_figure(
    costs: LayerCosts,
    settings: Sequence[tuple[float, float, float]],
    *,
    gradient_norms: Sequence[float] | None = None,
    local_steps: int = 1,
) -> Figure:
    """The steps of Algorithm 1 on made devices: one row a device; see `explored_frame`."""
    df = explored_frame(costs, settings, gradient_norms=gradient_norms, local_steps=local_steps)
    names = list(df["device_id"].drop_duplicates())
    with paper_style():
        figure, axes = new_figure(
            len(PANELS), num_rows=len(names), width=DOUBLE_COLUMN, height=0.1 + 1.7 * len(names)
        )
        for at, name in enumerate(names):
            rows = df[df["device_id"] == name]
            draw_selection(rows, axes[at * len(PANELS) :][: len(PANELS)])
        figure.draw_without_rendering()
    return figure


class Explorer:
    """A figure that follows sliders, and a still picture for viewers without a kernel.

    A frontend shows the richest form that it knows: JupyterLab the sliders; a page that
    only shows what was stored, such as GitHub, the picture.

    Parameters
    ----------
    controls : widgets.Widget
        The sliders and the figure that follows them.
    still : Figure
        A few settings side by side.
    """

    def __init__(self, controls: widgets.Widget, still: Figure) -> None:
        self.controls = controls
        self.still = still

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return {
            **self.controls._repr_mimebundle_(**options),
            "image/png": base64.b64encode(_png(self.still)).decode("ascii"),
        }


def explore_selection(
    costs: LayerCosts,
    *,
    mean_time_s: float,
    flops_per_second: float,
    gradient_norms: Sequence[float] | None = None,
    local_steps: int = 1,
) -> Explorer:
    """Sliders for a device's memory and speed and for t_avg, and what Algorithm 1 then does.

    Parameters
    ----------
    costs : LayerCosts
    mean_time_s : float
        t_avg to begin with; its slider reaches from a fifth of it to three times it.
    flops_per_second : float
        q to begin with; its slider likewise.
    gradient_norms, local_steps
        As for `explored_frame`.

    Returns
    -------
    Explorer
        Its still picture has three devices: as it begins, with little memory, and slow
        for t_avg.
    """
    least, most = (costs.memory_bytes(depth) / 1e9 for depth in (1, costs.num_layers))
    middle, speed = (least + most) / 2, flops_per_second / 1e12
    fixed = {"gradient_norms": gradient_norms, "local_steps": local_steps}
    sliders = {
        "memory_gb": _slider("memory, GB", middle, least, most),
        "tflop_per_s": _slider("speed, TFLOP/s", speed, speed / 5, 3 * speed),
        "mean_time_s": _slider("average time, s", mean_time_s, mean_time_s / 5, 3 * mean_time_s),
    }

    def draw(memory_gb: float, tflop_per_s: float, mean_time_s: float) -> None:
        display(selection_figure(costs, [(memory_gb, tflop_per_s, mean_time_s)], **fixed))

    shown = widgets.interactive_output(draw, sliders)
    low = least + (middle - least) / 2
    still = selection_figure(
        costs,
        [
            (middle, speed, mean_time_s),
            (low, speed, mean_time_s),
            (middle, speed / 3, mean_time_s),
        ],
        **fixed,
    )
    return Explorer(widgets.VBox([*sliders.values(), shown]), still)


def _slider(description: str, value: float, low: float, high: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=(high - low) / 100,
        description=description,
        readout_format=".3g",
        continuous_update=False,
        style={"description_width": "8em"},
        layout={"width": "32em"},
    )


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=STILL_DPI, metadata={"Software": None})
    return content.getvalue()
