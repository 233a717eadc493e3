"""Blocks of integers: a piece of an activation, what comes back of it, and the error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fedquad.config import InputError
from fedquad.report.explorers import Explorer
from fedquad.report.style import SINGLE_COLUMN, new_figure, paper_style
from fedquad.report.walkthroughs.sliders import explorer, one_of

BITS = (8, 6, 4, 3, 2)
BLOCK_SIZES = (4, 8, 16, 32, 64)

RoundTrip = Callable[..., Tensor]
"""From a matrix, ``bits`` and ``block_size`` to the matrix that comes back."""


def _image(values: Tensor, limit: float, block_size: int, colors: str, ax: Axes) -> None:
    ax.imshow(values.numpy(), interpolation="nearest", cmap=colors, vmin=-limit, vmax=limit)
    for edge in range(block_size, max(values.shape), block_size):
        if edge < values.shape[0]:
            ax.axhline(edge - 0.5, color="0.3", linewidth=0.4)
        if edge < values.shape[1]:
            ax.axvline(edge - 0.5, color="0.3", linewidth=0.4)
    ax.grid(visible=False)
    ax.set_xticks([])
    ax.set_yticks([])


def blocks_figure(
    matrix: Tensor, round_trip: RoundTrip, settings: Sequence[tuple[int, int]]
) -> Figure:
    """One row a setting: the matrix after the round trip, and the error.

    Both have the colours of the matrix itself, full at its largest 1 %: an error
    that can be seen is one that matters.

    Parameters
    ----------
    matrix : Tensor
        Of shape (rows, cols).
    round_trip : callable
        As `RoundTrip`.
    settings : sequence of (int, int)
        Bits, and the side of a block.
    """
    if matrix.dim() != 2 or not settings:
        found = (tuple(matrix.shape), list(settings))
        raise InputError("matrix, settings", found, "a matrix and at least one setting")
    limit = float(matrix.abs().flatten().float().quantile(0.99))
    with paper_style():
        figure, axes = new_figure(
            2, num_rows=len(settings), width=SINGLE_COLUMN, height=1.8 * len(settings)
        )
        for at, (bits, block_size) in enumerate(settings):
            restored = round_trip(matrix, bits=bits, block_size=block_size)
            error = restored - matrix
            after, difference = axes[2 * at : 2 * at + 2]
            _image(restored, limit, block_size, "RdBu_r", after)
            after.set_title(f"{bits} bits, blocks of {block_size}")
            _image(error, limit, block_size, "PuOr", difference)
            difference.set_title(f"error: {100 * float(error.norm() / matrix.norm()):.2g} %")
        figure.draw_without_rendering()
    return figure


def explore_blocks(matrix: Tensor, round_trip: RoundTrip) -> Explorer:
    """Sliders for bits and block size.

    Its still picture has 8, 4 and 2 bits in blocks of 32.
    """
    sliders = {
        "bits": one_of("bits", BITS, 8),
        "block_size": one_of("block size", BLOCK_SIZES, 32),
    }

    def draw(bits: int, block_size: int) -> Figure:
        return blocks_figure(matrix, round_trip, [(bits, block_size)])

    still = blocks_figure(matrix, round_trip, [(8, 32), (4, 32), (2, 32)])
    return explorer(draw, sliders, still)
