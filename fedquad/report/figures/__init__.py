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
from fedquad.report.figures import (
    fig01,
    fig02,
    fig03,
    fig04,
    fig04_costs,
    fig05,
    fig06,
    fig07,
    fig08,
    fig09,
    fig10,
    predictions,
    sensitivity,
    walkthrough,
)
from fedquad.report.frames.federated import of_default_throughput
from fedquad.report.saving import load_figure_csv
from fedquad.report.style import paper_style, stamp


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the paper, or of a walkthrough.

    Parameters
    ----------
    item : str
        ``fig01``, …, as in the paper's numbers and claims, ``sensitivity``, or
        ``walkthrough``.
    caption : str
        One or two sentences for the gallery.
    compose : callable
        Draws a frame's panels into a new figure.
    shown : callable
        From a frame to the rows that the stamp speaks of; all by default.
    """

    item: str
    caption: str
    compose: Callable[[pd.DataFrame], Figure]
    shown: Callable[[pd.DataFrame], pd.DataFrame] = pd.DataFrame


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
    "fig05_workflow": FigureSpec(
        "fig05",
        "One round, from its record: who computes and who waits, and what is sent at each step.",
        fig05.compose_workflow,
    ),
    "fig06_selection_example": FigureSpec(
        "fig06",
        "Algorithm 1 on two devices of a real round: the fewest quantized layers that fit, "
        "completion time against the average, gain and reward; the star is chosen.",
        fig06.compose_example,
    ),
    "fig06_configurations": FigureSpec(
        "fig06",
        "LoRA depth and quantized layers that Algorithm 1 gave to each class, beside its "
        "unquantized budget; bands span the seeds.",
        fig06.compose_configurations,
        fig06.shown,
    ),
    "fig06_predictions": FigureSpec(
        "fig06",
        "What the formulas predict: reward over depth of a device slower than the average "
        "(stars are chosen), and equal devices that stay where they began.",
        predictions.compose_predictions,
    ),
    "fig07_accuracy_curves": FigureSpec(
        "fig07",
        "Smoothed accuracy over simulated time at high heterogeneity, by task and, on the first "
        "one, by backbone; bands span the seeds. FedLoRA, which no memory constrains, is the "
        "reference.",
        fig07.compose_accuracy,
        fig07.shown,
    ),
    "fig08_time_to_accuracy": FigureSpec(
        "fig08",
        "Simulated time to the highest accuracy that all five methods reach, and FedQuad's "
        "speed-up, with 95 % intervals.",
        fig08.compose_time,
    ),
    "fig08_speedup_against_target": FigureSpec(
        "fig08",
        "FedQuad's speed-up against the target accuracy, with 95 % intervals.",
        fig08.compose_against_target,
    ),
    "tab04_curves": FigureSpec(
        "tab04",
        "Smoothed accuracy over simulated time by level of heterogeneity; bands span the seeds.",
        fig07.compose_levels,
    ),
    "fig09_waiting_time": FigureSpec(
        "fig09",
        "Average waiting time of each round, and over all rounds against FedQuad's, with 95 % "
        "intervals over seeds.",
        fig09.compose_waiting,
        of_default_throughput,
    ),
    "fig10_ablation": FigureSpec(
        "fig10",
        "FedQuad without quantization (w/o QD) and without the choice of depth (w/o LD): accuracy "
        "over simulated time, and time to the highest accuracy that all three reach.",
        fig10.compose,
    ),
    "fig_sensitivity": FigureSpec(
        "sensitivity",
        "Accuracy, simulated time, waiting and depth against one varied setting at a time, with "
        "95 % intervals.",
        sensitivity.compose_sensitivity,
        sensitivity.shown,
    ),
    "fig_yardstick": FigureSpec(
        "sensitivity",
        "Algorithm 1 beside the fastest assignment of no less gain and no more waiting, and "
        "beside the highest reward over all configurations that fit.",
        sensitivity.compose_yardstick,
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
        stamp(figure, _KNOWN[name].shown(df))
        figure.draw_without_rendering()  # lays out the panels under this style, once
    return figure


def replot(name: str, *, folder: str | Path) -> Figure:
    """Draw a figure again from its csv alone."""
    require_choice("figure", name, _KNOWN)
    return draw(name, load_figure_csv(name, folder=folder))
