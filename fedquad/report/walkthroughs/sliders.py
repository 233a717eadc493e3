"""A figure that follows sliders, made from a function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from fedquad.report.explorers import Explorer

_LOOK = {
    "continuous_update": False,
    "style": {"description_width": "10em"},
    "layout": {"width": "34em"},
}


def whole_number(description: str, value: int, low: int, high: int) -> widgets.IntSlider:
    """A slider over ``low`` … ``high``."""
    return widgets.IntSlider(value=value, min=low, max=high, description=description, **_LOOK)


def one_of(description: str, options: Iterable[Any], value: Any) -> widgets.SelectionSlider:
    """A slider over given values, in their order."""
    return widgets.SelectionSlider(
        options=list(options), value=value, description=description, **_LOOK
    )


def explorer(
    draw: Callable[..., Figure], sliders: Mapping[str, widgets.Widget], still: Figure
) -> Explorer:
    """Sliders above the figure that ``draw`` makes of their values.

    Parameters
    ----------
    draw : callable
        Takes the sliders' values by their names; the same values give the same figure.
    sliders : mapping of str to Widget
    still : Figure
        A few settings side by side, for viewers without a kernel.
    """

    def show(**values: Any) -> None:
        display(draw(**values))

    shown = widgets.interactive_output(show, dict(sliders))
    return Explorer(widgets.VBox([*sliders.values(), shown]), still)
