"""What stands in the graph instead of a saved tensor, and its way back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fedquad.kernels import dequantize_blocks, pack_bits, quantize_blocks, unpack_bits
from fedquad.model.activation_quantization.layout import as_matrix
from fedquad.model.activation_quantization.settings import QuantizationSettings

OuterHooks = tuple[Callable[[Tensor], object], Callable[[object], Tensor]]

_nothing: dict[torch.device, Tensor] = {}  # an empty tensor a device


class Region:
    """The elements of a storage that some saved tensors show, in another form until backward.

    Parameters
    ----------
    tensor : Tensor
        One of those saved tensors.
    kept : tuple of Tensor
        The form that is kept.
    outer : OuterHooks or None
        Hooks that were active outside; they pack what is kept here.

    Attributes
    ----------
    kept_bytes : int
    """

    __slots__ = (
        "__weakref__",
        "_dense",
        "_kept",
        "_outer",
        "_storage",
        "_uses",
        "_version",
        "_watch",
        "dtype",
        "kept_bytes",
        "views",
    )

    def __init__(self, tensor: Tensor, kept: tuple[Tensor, ...], outer: OuterHooks | None) -> None:
        self.dtype = tensor.dtype
        self.kept_bytes = sum(part.nbytes for part in kept)
        self.views = 0
        self._uses = 0
        self._dense: Tensor | None = None
        self._outer = outer
        self._kept = kept if outer is None else tuple(map(outer[0], kept))
        self._watch = _version_watch(tensor)
        self._version = tensor._version
        # Freed memory is given out anew, but no storage gets the address of one that is referred
        # to, weakly or not: while this region lives, its key can match no other storage.
        self._storage = StorageWeakRef(tensor.untyped_storage())

    def elements(self) -> Tensor:
        """The elements in the order of memory.

        Raises
        ------
        RuntimeError
            They were changed in place after they had been saved.
        """
        if self._watch is not None and self._watch._version != self._version:
            raise _changed_in_place(self.dtype, self._watch._version, self._version)
        dense = self._dense
        if dense is None:
            kept = self._kept if self._outer is None else map(self._outer[1], self._kept)
            dense = self._restore(*kept)
        # Kept for the other views only: x of query and value, probabilities of softmax and product.
        self._uses += 1
        if self._uses < self.views:
            self._dense = dense
        else:
            self._dense, self._uses = None, 0
        return dense

    def _restore(self, *kept: Tensor) -> Tensor:
        raise NotImplementedError


class BlockRegion(Region):
    """INT8 or INT4 blocks; see `fedquad.kernels.quantize_blocks`."""

    __slots__ = ("_cols", "_settings", "_signed")

    def __init__(
        self,
        tensor: Tensor,
        core: Tensor,
        outer: OuterHooks | None,
        settings: QuantizationSettings,
        signed: bool,
        seed: int | None,
    ) -> None:
        matrix = as_matrix(core)
        kept = quantize_blocks(
            matrix,
            bits=settings.bits,
            block_size=settings.block_size,
            signed=signed,
            seed=seed,
        )
        super().__init__(tensor, kept, outer)
        self._cols, self._settings, self._signed = matrix.shape[1], settings, signed

    def _restore(self, codes: Tensor, scales: Tensor) -> Tensor:
        return dequantize_blocks(
            codes,
            scales,
            cols=self._cols,
            bits=self._settings.bits,
            block_size=self._settings.block_size,
            signed=self._signed,
            dtype=self.dtype,
        )


class BitRegion(Region):
    """One bit an element, exact: a mask, or a tensor of no values but 0 and ``value``."""

    __slots__ = ("_numel", "_value")

    def __init__(
        self, tensor: Tensor, mask: Tensor, outer: OuterHooks | None, value: float | None = None
    ) -> None:
        super().__init__(tensor, (pack_bits(mask),), outer)
        self._numel, self._value = mask.numel(), value

    def _restore(self, packed: Tensor) -> Tensor:
        mask = unpack_bits(packed, self._numel)
        if self._value is None:
            return mask
        # Not a product: 0 times infinity is NaN.
        dense = torch.zeros(self._numel, dtype=self.dtype, device=mask.device)
        return dense.masked_fill_(mask, self._value)


class CopyRegion(Region):
    """The elements themselves: of a small part of a large storage, which is not held for it."""

    __slots__ = ()

    def __init__(self, tensor: Tensor, core: Tensor, outer: OuterHooks | None) -> None:
        super().__init__(tensor, (core.clone(memory_format=torch.contiguous_format),), outer)

    def _restore(self, copy: Tensor) -> Tensor:
        return copy


class PackedView:
    """A saved tensor as a view of a region."""

    __slots__ = ("region", "shape", "stride")

    def __init__(self, region: Region, shape: torch.Size, stride: tuple[int, ...]) -> None:
        region.views += 1
        self.region, self.shape, self.stride = region, shape, stride

    def unpack(self) -> Tensor:
        """The tensor, with its type, shape and strides."""
        return self.region.elements().as_strided(self.shape, self.stride, 0)


class Passed:
    """A saved tensor that is kept as it is."""

    __slots__ = ("_kept", "_outer", "_version", "_watch")

    def __init__(self, tensor: Tensor, outer: OuterHooks | None) -> None:
        self._version = tensor._version
        self._outer = outer
        if outer is None:
            # The tensor itself would be a cycle where an operation keeps its own result.
            self._kept = self._watch = tensor if tensor.is_leaf else tensor.detach()
        else:
            self._kept, self._watch = outer[0](tensor), _version_watch(tensor)

    def unpack(self) -> Tensor:
        """The tensor; raises as PyTorch does where it was changed in place."""
        if self._watch is not None and self._watch._version != self._version:
            raise _changed_in_place(self._watch.dtype, self._watch._version, self._version)
        return self._kept if self._outer is None else self._outer[1](self._kept)


def _version_watch(tensor: Tensor) -> Tensor | None:
    """A tensor without memory whose ``_version`` follows that of ``tensor``.

    None for a fake tensor and other subclasses, whose data cannot be replaced.

    Saved-tensor hooks switch PyTorch's own check off. A detached alias shares the
    version counter, and keeps it when its data are replaced: so changes can be
    seen, and the memory is not held.
    """
    alias = tensor.detach()
    if type(alias) is not Tensor:
        return None
    nothing = _nothing.get(alias.device)
    if nothing is None:
        nothing = _nothing[alias.device] = torch.empty(0, device=alias.device)
    alias.data = nothing
    return alias


def _changed_in_place(dtype: torch.dtype, found: int, expected: int) -> RuntimeError:
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace "
        f"operation: a quantized layer kept a tensor of {dtype} at version {expected}; "
        f"it is at version {found} now"
    )
