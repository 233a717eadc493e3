"""The figures: each panel is one function from a tidy frame to its Axes.

A new figure adds one module and its entries here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fedquad.config import require_choice
from fedquad.report.figures import fig01, fig02, fig03
from fedquad.report.saving import load_figure_csv
from fedquad.report.style import paper_style, stamp


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the paper.

    Parameters
    ----------
    item : str
        ``fig01``, …, as in the paper's numbers and claims.
    caption : str
        One or two sentences for the gallery.
    compose : callable
        Draws a frame's panels into a new figure.
    """

    item: str
    caption: str
    compose: Callable[[pd.DataFrame], Figure]


FIGURES: dict[str, FigureSpec] = {
    "fig01a_communication": FigureSpec(
        "fig01",
        "Share of communication in the time of one federated round, and traffic of one device.",
        fig01.compose_communication,
    ),
    "fig01b_memory": FigureSpec(
        "fig01", "What the memory of a fine-tuning step is spent on.", fig01.compose_memory
    ),
    "fig01c_latency": FigureSpec(
        "fig01",
        "Work of one step with LoRA, relative to full fine-tuning: counted and measured.",
        fig01.compose_latency,
    ),
    "fig02a_layer_position_cost": FigureSpec(
        "fig02",
        "Memory and work of a step by the position of the trained layers.",
        fig02.compose_cost,
    ),
    "fig02b_layer_position_accuracy": FigureSpec(
        "fig02",
        "Accuracy by the position of the trained layers, with 95 % intervals.",
        fig02.compose_accuracy,
    ),
    "fig03a_depth_accuracy": FigureSpec(
        "fig03", "Accuracy against LoRA depth, with 95 % intervals.", fig03.compose_accuracy
    ),
    "fig03b_depth_cost": FigureSpec(
        "fig03", "Memory and work of a step against LoRA depth.", fig03.compose_cost
    ),
}


def draw(name: str, df: pd.DataFrame) -> Figure:
    """Draw a figure from its frame, with its stamp.

    Raises
    ------
    InputError
        For a name that is not in `FIGURES`.
    """
    require_choice("figure", name, FIGURES)
    with paper_style():
        figure = FIGURES[name].compose(df)
        stamp(figure, df)
        figure.draw_without_rendering()  # lays out the panels under this style, once
    return figure


def replot(name: str, *, folder: str | Path) -> Figure:
    """Draw a figure again from its csv alone."""
    require_choice("figure", name, FIGURES)
    return draw(name, load_figure_csv(name, folder=folder))
