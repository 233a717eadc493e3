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
from fedquad.report.figures import fig01, fig02, fig03, fig04, fig04_costs, walkthrough
from fedquad.report.saving import load_figure_csv
from fedquad.report.style import paper_style, stamp


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the paper, or of a walkthrough.

    Parameters
    ----------
    item : str
        ``fig01``, …, as in the paper's numbers and claims, or ``walkthrough``.
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
    "fig04a_quantization_memory": FigureSpec(
        "fig04",
        "Memory of a step at full depth against the number of quantized layers: as the blocks are "
        "stored, with the paper's saving, and with checkpointing instead.",
        fig04_costs.compose_memory,
    ),
    "fig04a_quantization_accuracy": FigureSpec(
        "fig04",
        "Accuracy at full depth against the number of quantized layers, and the gain over none, "
        "with 95 % intervals.",
        fig04.compose_accuracy,
    ),
    "fig04b_synergy_accuracy": FigureSpec(
        "fig04",
        "Accuracy of (LoRA depth, quantized layers) at about one memory, with 95 % intervals.",
        fig04.compose_synergy_accuracy,
    ),
    "fig04b_synergy_cost": FigureSpec(
        "fig04",
        "Memory and work of a step of the same configurations.",
        fig04_costs.compose_synergy_cost,
    ),
}

# Drawn by the walkthroughs: they explain, and stand beside nothing of the paper.
WALKTHROUGH_FIGURES: dict[str, FigureSpec] = {
    "walkthrough_kept_bytes": FigureSpec(
        "walkthrough",
        "What one layer keeps for backward, operation by operation.",
        walkthrough.compose_kept_bytes,
    ),
    "walkthrough_heat_map": FigureSpec(
        "walkthrough",
        "A piece of an activation, the same from INT8 blocks, and the error.",
        walkthrough.compose_heat_map,
    ),
    "walkthrough_rounding_error": FigureSpec(
        "walkthrough",
        "Rounding errors in scales of their block.",
        walkthrough.compose_rounding_error,
    ),
    "walkthrough_block_size": FigureSpec(
        "walkthrough",
        "Relative error against block size and bits.",
        walkthrough.compose_block_size,
    ),
    "walkthrough_gradient_error": FigureSpec(
        "walkthrough",
        "Relative error of the LoRA gradient by layer.",
        walkthrough.compose_gradient_error,
    ),
}
_KNOWN = FIGURES | WALKTHROUGH_FIGURES


def draw(name: str, df: pd.DataFrame) -> Figure:
    """Draw a figure from its frame, with its stamp.

    Raises
    ------
    InputError
        For a name that is in neither of the two.
    """
    require_choice("figure", name, _KNOWN)
    with paper_style():
        figure = _KNOWN[name].compose(df)
        stamp(figure, df)
        figure.draw_without_rendering()  # lays out the panels under this style, once
    return figure


def replot(name: str, *, folder: str | Path) -> Figure:
    """Draw a figure again from its csv alone."""
    require_choice("figure", name, _KNOWN)
    return draw(name, load_figure_csv(name, folder=folder))
