"""Where the elements of a view lie in memory, and how to bring a view back from that order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """A view as a stretch of memory and the way to see it.

    Attributes
    ----------
    region : tuple
        With storage, type and version it names the elements: views that are
        transposed or reshaped into each other have the same one.
    core : Tensor
        Every element once, dimensions in the order of memory.
    shape, stride : tuple of int
        The view, over the elements of ``core`` laid out without gaps.
    """

    region: tuple
    core: Tensor
    shape: torch.Size
    stride: tuple[int, ...]


def layout_of(tensor: Tensor) -> Layout:
    """Take a view apart; nothing is copied.

    A dense view, also a permuted or expanded one, comes back with its own
    strides. One with gaps (a slice) comes back without them, its dimensions in
    the same order in memory.
    """
    shape, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
    if tensor.is_contiguous() and shape and shape[-1] > 1:
        return Layout((offset, tensor.numel()), tensor, shape, stride)
    # An expanded dimension repeats one element; one of size 1 has any stride.
    dims = [dim for dim, size in enumerate(shape) if size > 1 and stride[dim] != 0]
    dims.sort(key=lambda dim: -stride[dim])
    core = tensor.as_strided([shape[d] for d in dims], [stride[d] for d in dims])
    if core.is_contiguous():
        return Layout((offset, core.numel()), core, shape, stride)
    gapless = [0] * len(shape)
    step = 1
    for dim in reversed(dims):
        gapless[dim] = step
        step *= shape[dim]
    region = (offset, core.shape, core.stride())
    return Layout(region, core, shape, tuple(gapless))


def as_matrix(core: Tensor) -> Tensor:
    """Rows of the innermost dimension, a view where that is possible."""
    return core.reshape(-1, core.shape[-1] if core.dim() else 1)
