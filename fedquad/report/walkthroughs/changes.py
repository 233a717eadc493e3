"""What a round changes in one tensor: each device's own change, and that of the global adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fedquad.config import InputError
from fedquad.model.adapter import Adapter
from fedquad.report.explorers import Explorer
from fedquad.report.style import DOUBLE_COLUMN, new_figure, paper_style
from fedquad.report.walkthroughs.sliders import explorer, whole_number


def layer_changes(
    before: Adapter, after: Mapping[str, Adapter], layer: int, tensor: str
) -> dict[str, Tensor]:
    """Difference to ``before`` of one tensor, from those adapters that hold its layer.

    Parameters
    ----------
    before : Adapter
        What everybody started from, all L layers.
    after : mapping of str to Adapter
        Name of a sender -> its adapter, whichever layers it has.
    layer : int
    tensor : str
        Such as ``attention.self.query.lora_B``.

    Raises
    ------
    InputError
        A layer or tensor that ``before`` does not hold.
    """
    known = before.lora.get(layer, {})
    if tensor not in known:
        accepted = f"a layer of {sorted(before.lora)} and a tensor of {sorted(known)}"
        raise InputError("layer, tensor", (layer, tensor), accepted)
    return {
        name: adapter.lora[layer][tensor] - known[tensor]
        for name, adapter in after.items()
        if layer in adapter.lora
    }


def _empty(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=6)
    ax.set_frame_on(False)


def changes_figure(
    before: Adapter, after: Mapping[str, Adapter], layers: Sequence[int], tensor: str
) -> Figure:
    """One row a layer, one column a sender: its change of the tensor as colours.

    All panels have one scale, full at the largest change of any of them.
    """
    rows = {layer: layer_changes(before, after, layer, tensor) for layer in layers}
    largest = [float(one.abs().max()) for changes in rows.values() for one in changes.values()]
    limit = max([*largest, 1e-12])
    with paper_style():
        figure, axes = new_figure(
            len(after), num_rows=len(rows), width=DOUBLE_COLUMN, height=0.2 + 1.15 * len(rows)
        )
        image = None
        for at, (layer, changes) in enumerate(rows.items()):
            for ax, name in zip(axes[at * len(after) :], after, strict=False):
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(visible=False)
                if at == 0:
                    ax.set_title(name)
                if name == next(iter(after)):
                    ax.set_ylabel(f"layer {layer}")
                if name not in changes:
                    _empty(ax, "not\ntrained")
                    continue
                colors = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
                image = ax.imshow(
                    changes[name].float().numpy(), aspect="auto", interpolation="nearest", **colors
                )
        if image is not None:
            bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01)
            bar.ax.tick_params(labelsize=5)
        figure.draw_without_rendering()
    return figure


def explore_changes(before: Adapter, after: Mapping[str, Adapter], tensor: str) -> Explorer:
    """A slider for the layer.

    Its still picture has the layer at the output, one in the middle and the one at the input.
    """
    layers = sorted(before.lora)
    shown = [layers[-1], layers[len(layers) // 2], layers[0]]
    sliders = {"layer": whole_number("layer", layers[-1], layers[0], layers[-1])}

    def draw(layer: int) -> Figure:
        return changes_figure(before, after, [layer], tensor)

    return explorer(draw, sliders, changes_figure(before, after, shown, tensor))
