"""Decides what of a layer is packed, and how."""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import methodcaller
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from fedquad.model.activation_quantization.layout import layout_of
from fedquad.model.activation_quantization.regions import (
    BitRegion,
    BlockRegion,
    CopyRegion,
    OuterHooks,
    PackedView,
    Passed,
    Region,
)
from fedquad.model.activation_quantization.settings import QuantizationSettings
from fedquad.model.activation_quantization.weights import KnownWeights, storage_key

if TYPE_CHECKING:
    from fedquad.model.activation_quantization.recording import Recorder

# A tensor of fewer elements than the hidden state by this factor is kept as it is: mean, rstd,
# logsumexp, what LoRA of a small rank lies between.
SMALL_SHARE = 8

_PACKED_TYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.bool})
_PLAIN = (Tensor, nn.Parameter, FakeTensor)

# What changes neither the sign of an element nor, but for dropout, its value.
_KEEPS_SIGN = frozenset(
    f"{name}Backward0"
    for name in (
        *("View", "UnsafeView", "ReshapeAlias", "Alias", "Expand", "T", "Transpose", "Permute"),
        *("Clone", "ToCopy", "NativeDropout"),
    )
)


class BlockPacker:
    """Packs the tensors that autograd saves in one layer at a time.

    Kept as they are: weights, whatever view or cast of them is saved; small
    tensors and statistics; integers; tensors that a layer is given beside the
    hidden state and that need no gradient (masks, rotary angles). Masks become
    bits, everything else of 16 or 32 bits becomes blocks.

    Parameters
    ----------
    settings : QuantizationSettings
    """

    unpack = staticmethod(methodcaller("unpack"))

    def __init__(self, settings: QuantizationSettings) -> None:
        self.settings = settings
        self.weights = KnownWeights()
        self.recorder: Recorder | None = None  # while somebody records
        self._regions: WeakValueDictionary[tuple, Region] = WeakValueDictionary()
        self._hidden_shape = torch.Size()
        self._small_numel = 0
        self._given: set[int] = set()
        self._outer: OuterHooks | None = None
        self._forward_idx = 0
        self._pack_idx = 0

    def enter_model(self, model: nn.Module, layers: nn.ModuleList) -> None:
        """A new forward pass begins."""
        self._forward_idx += 1
        self._pack_idx = 0
        self.weights.enter_model(model, layers)

    def enter_layer(
        self, layer: nn.Module, inputs: Iterable[object], outer: OuterHooks | None
    ) -> None:
        """Pack for this layer from now on.

        Parameters
        ----------
        layer : nn.Module
        inputs : iterable
            What its forward is called with, the hidden state first.
        outer : OuterHooks or None
            Hooks that are active outside of the layer.
        """
        self.weights.enter_layer(layer)
        self._outer = outer
        floating = [value for value in _flat(inputs) if _is_floating(value)]
        hidden = floating[:1]
        self._hidden_shape = hidden[0].shape if hidden else torch.Size()
        self._small_numel = self._hidden_shape.numel() // SMALL_SHARE if hidden else 0
        given = {storage_key(tensor) for tensor in floating if not tensor.requires_grad}
        self._given = given.difference(map(storage_key, hidden))

    def leave_layer(self) -> None:
        """Let go of what belongs to the layer."""
        self.weights.leave_layer()
        self._outer = None

    def next_seed(self) -> int | None:
        """Seed of the next quantization of this forward pass; None when rounding to nearest."""
        self._pack_idx += 1
        return self.settings.rounding_seed(self._forward_idx, self._pack_idx)

    def pack(self, tensor: Tensor) -> PackedView | Passed:
        """What is kept instead of ``tensor``; `unpack` gives it back."""
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            return Passed(tensor, self._outer)
        dtype = tensor.dtype
        storage = tensor.untyped_storage()
        address = storage._cdata
        if (
            dtype not in _PACKED_TYPES
            or storage.nbytes() <= self._small_numel * dtype.itemsize
            or address in self.weights.of_layer
        ):
            return Passed(tensor, self._outer)
        layout = layout_of(tensor)
        key = (address, layout.region, tensor._version, dtype)
        region = self._regions.get(key)
        if region is None:
            region = self._make_region(tensor, layout.core)
            if region is None:
                return Passed(tensor, self._outer)
            self._regions[key] = region
        return PackedView(region, layout.shape, layout.stride)

    def _make_region(self, tensor: Tensor, core: Tensor) -> Region | None:
        if self.weights.share_storage_with(tensor):
            return None
        if core.numel() <= self._small_numel:
            return CopyRegion(tensor, core, self._outer)
        if tensor.dtype == torch.bool:
            return BitRegion(tensor, core, self._outer)
        if self.weights.were_cast_to(tensor):
            return None
        readable = tensor.device.type == "cpu" and type(tensor) is not FakeTensor
        if tensor.requires_grad:
            signed = not _is_non_negative(tensor, readable)
        else:
            if storage_key(tensor) in self._given or self._is_statistic(tensor):
                return None
            signed = True
            if readable:
                low, high = (bound.item() for bound in core.aminmax())
                value = high if low == 0 else low
                if 0 in (low, high) and value != 0:  # the masks of dropout on a CPU; attention's
                    mask = core == value
                    if mask.count_nonzero() == core.count_nonzero():
                        return BitRegion(tensor, mask, self._outer, value)
                if math.isinf(low) or math.isinf(high):
                    return None
                signed = not low >= 0
            if 0 in tensor.stride():  # a mask for all heads
                return None
        return BlockRegion(tensor, core, self._outer, self.settings, signed, self.next_seed())

    def _is_statistic(self, tensor: Tensor) -> bool:
        """Whether a tensor without a gradient has a number for each head and token.

        The logsumexp of attention, which must not be rounded, is small; but of a few
        tokens it is not, since CUDA kernels pad it to 32.
        """
        shape, hidden = tensor.shape, self._hidden_shape
        return len(shape) == len(hidden) == 3 and shape[0] == hidden[0] and shape[1] != hidden[1]


def _is_non_negative(tensor: Tensor, readable: bool) -> bool:
    """Whether a tensor with a gradient is the result of a softmax, dropout included.

    Known from the graph, so that no value is waited for. On a CPU dropout is a
    product, of which the graph does not tell the sign: there it is looked at.
    """
    node = tensor.grad_fn
    look = False
    while node is not None:
        name = node.name()
        if name == "SoftmaxBackward0":
            return not look or tensor.min().item() >= 0
        if name == "MulBackward0" and readable and node.next_functions[1][0] is None:
            look = True
        elif name not in _KEEPS_SIGN:
            return False
        node = node.next_functions[0][0]
    return False


def _flat(inputs: Iterable[object]) -> Iterable[object]:
    for value in inputs:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        elif value is not None:
            yield value


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
