"""Bytes alive at every moment of a step, as an allocator without rounding would count them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Follow the storages that operations make, from their making to their release.

    Works on fake tensors and on real ones. What an operation allocates and
    releases within itself is not met, nor what code compiled by
    `torch.compile` allocates.

    Parameters
    ----------
    known : iterable of Tensor
        Tensors that are there before (weights, buffers, the batch); they and their
        views are not counted.

    Attributes
    ----------
    now, peak : int
        Bytes alive at this moment, and the most so far.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        # Held, so that no address of theirs is met again.
        self._known = {tensor.untyped_storage()._cdata: tensor for tensor in known}
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive or key in self._known:
            return
        self._alive.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size).atexit = False

    def _release(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size
