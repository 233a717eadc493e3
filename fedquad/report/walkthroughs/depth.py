"""LoRA depth and quantization: what each layer keeps, and what a step then costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedquad.config import Assignment, InputError, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.report.explorers import Explorer
from fedquad.report.style import DOUBLE_COLUMN, bar_look, finish, new_figure, paper_style
from fedquad.report.walkthroughs.sliders import explorer, whole_number

_GB, _TFLOP = 1e9, 1e12


def depth_frame(costs: LayerCosts, pairs: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """What every layer keeps for backward under each pair (d, a).

    Parameters
    ----------
    costs : LayerCosts
        Of L layers.
    pairs : sequence of (int, int)
        LoRA depth and number of quantized layers.

    Returns
    -------
    DataFrame
        One row a pair and layer, ``depth, quantized, layer, is_quantized,
        kept_bytes``; and of the pair ``memory_bytes`` (Eq. 11) and the FLOPs of a
        step (Eq. 6) as ``forward_flops``, ``backward_flops``, ``quantization_flops``.

    Raises
    ------
    InputError
        No pair, or one that is no configuration of L layers.
    """
    if not pairs:
        raise InputError("pairs", list(pairs), "at least one (depth, quantized)")
    rows = []
    for depth, quantized in pairs:
        config = LayerConfig(depth, quantized)
        trained = config.trainable_layers(costs.num_layers)
        in_int8 = config.quantized_layers(costs.num_layers)
        price = costs.price(Assignment.from_layer_config(config, costs.num_layers))
        for layer in range(costs.num_layers):
            kept = costs.bytes_per_lora_layer * (layer in trained)
            kept -= costs.bytes_saved_per_quantized_layer * (layer in in_int8)
            rows.append(
                {
                    "depth": depth,
                    "quantized": quantized,
                    "layer": layer,
                    "is_quantized": layer in in_int8,
                    "kept_bytes": kept,
                    "memory_bytes": price.bytes,
                    "forward_flops": costs.forward_flops,
                    "backward_flops": costs.flops_per_lora_layer * depth,
                    "quantization_flops": costs.flops_per_quantized_layer * quantized,
                }
            )
    return pd.DataFrame(rows)


def kept_by_layer(df: pd.DataFrame, ax: Axes) -> Axes:
    """One bar a layer, the one at the input first: rows of one pair of `depth_frame`."""
    for is_quantized, name in ((False, "activation_bytes"), (True, "quantization")):
        rows = df[df["is_quantized"] == is_quantized]
        if rows.empty:
            continue
        look = bar_look(name) | {"label": "as INT8 blocks" if is_quantized else "as it is"}
        ax.bar(rows["layer"], rows["kept_bytes"] / _GB, 0.8, **look)
    pair = df.iloc[0]
    ax.set_title(f"$d$ = {pair['depth']}, $a$ = {pair['quantized']}", loc="left")
    ax.set_xlabel("layer, from the input")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.set_ylabel("kept, GB")
    ax.legend(loc="upper left", ncols=2)
    finish(ax)
    return ax


def _stack(df: pd.DataFrame, parts: dict[str, tuple[str, float]], ax: Axes, label: str) -> Axes:
    """One horizontal bar: parts by name, each with its label and its length."""
    start = 0.0
    for name, (text, length) in parts.items():
        ax.barh([0], [length], 0.5, left=start, **bar_look(name) | {"label": text})
        start += length
    ax.text(start, 0, f" {start:.3g}", va="center", fontsize=6)
    ax.set_yticks([])
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_ylim(-0.5, 1.1)
    ax.set_xlabel(label)
    ax.legend(loc="upper left", ncols=len(parts), columnspacing=0.8)
    finish(ax)
    return ax


def depth_figure(costs: LayerCosts, pairs: Sequence[tuple[int, int]]) -> Figure:
    """One row a pair (d, a): bytes of each layer, memory of the step, work of the step."""
    df = depth_frame(costs, pairs)
    whole = depth_frame(costs, [(costs.num_layers, costs.num_layers - 1)]).iloc[0]
    work = ["forward_flops", "backward_flops", "quantization_flops"]
    most_bytes = costs.fixed_bytes + costs.bytes_per_lora_layer * costs.num_layers
    with paper_style():
        figure, axes = new_figure(
            3, num_rows=len(pairs), width=DOUBLE_COLUMN, height=0.1 + 1.5 * len(pairs)
        )
        for at, pair in enumerate(pairs):
            rows = df[(df["depth"] == pair[0]) & (df["quantized"] == pair[1])]
            one = rows.iloc[0]
            layers, memory, flops = axes[3 * at : 3 * at + 3]
            kept_by_layer(rows, layers)
            layers.set_ylim(0, 1.5 * costs.bytes_per_lora_layer / _GB)
            kept = (one["memory_bytes"] - costs.fixed_bytes) / _GB
            parts = {
                "weight_bytes": ("always there", costs.fixed_bytes / _GB),
                "activation_bytes": ("by depth", kept),
            }
            _stack(rows, parts, memory, "memory of a step, GB").set_xlim(0, 1.12 * most_bytes / _GB)
            parts = {
                name.removesuffix("_flops"): (name.removesuffix("_flops"), one[name] / _TFLOP)
                for name in work
            }
            _stack(rows, parts, flops, "work of a step, TFLOP")
            flops.set_xlim(0, 1.12 * whole[work].sum() / _TFLOP)
        figure.draw_without_rendering()
    return figure


def explore_depth(costs: LayerCosts) -> Explorer:
    """Sliders for LoRA depth and quantized layers; a pair that cannot be is brought into range.

    Its still picture has a third of the layers, all of them, and all of them
    quantized but the output layer.
    """
    num_layers = costs.num_layers
    sliders = {
        "depth": whole_number("LoRA depth d", num_layers // 2, 1, num_layers),
        "quantized": whole_number("quantized layers a", 0, 0, num_layers - 1),
    }

    def draw(depth: int, quantized: int) -> Figure:
        return depth_figure(costs, [(depth, min(quantized, depth - 1))])

    pairs = [(max(1, num_layers // 3), 0), (num_layers, 0), (num_layers, num_layers - 1)]
    return explorer(draw, sliders, depth_figure(costs, pairs))
