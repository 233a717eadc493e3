"""Observers of a training step on fake tensors: what is kept for backward, what is moved."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_EFFICIENT_ATTENTION = torch.ops.aten._scaled_dot_product_efficient_attention
# The memory-efficient kernel reads rows of its bias in aligned steps; PyTorch pads to this.
_BIAS_ALIGNMENT = 16


class SavedBytes:
    """Bytes autograd keeps for backward while this context is active, each storage once.

    Parameters
    ----------
    layers : nn.ModuleList
        Transformer layers; a storage is charged to the layer in whose forward it
        is first kept.
    weights : iterable of Tensor
        Parameters and buffers, as the model is called with; whatever shares their
        storage (a view, a transpose) is not counted.
    """

    def __init__(self, layers: nn.ModuleList, weights: Iterable[Tensor]) -> None:
        self.by_layer = [0] * len(layers)
        self.outside_layers = 0
        self._layers = layers
        # The storages themselves are held, so that a freed one's address is not met again.
        self._seen = {_storage_key(weight): weight.untyped_storage() for weight in weights}
        self._current: int | None = None
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._handles: list = []

    def __enter__(self) -> SavedBytes:
        for idx, layer in enumerate(self._layers):
            self._handles.append(layer.register_forward_pre_hook(self._entering(idx)))
            self._handles.append(layer.register_forward_hook(self._entering(None)))
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._hooks.__exit__(*exception)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()  # backward may release them

    def _entering(self, idx: int | None):
        def hook(*_) -> None:
            self._current = idx

        return hook

    def _pack(self, tensor: Tensor) -> Tensor:
        key = _storage_key(tensor)
        if key not in self._seen:
            self._seen[key] = storage = tensor.untyped_storage()
            if self._current is None:
                self.outside_layers += storage.nbytes()
            else:
                self.by_layer[self._current] += storage.nbytes()
        return tensor


class CudaSemantics(TorchFunctionMode):
    """Let operations keep what they keep on CUDA, on tensors that live elsewhere.

    Dropout becomes `torch.native_dropout`, which keeps a mask of one byte an
    element (elsewhere PyTorch keeps a float mask). Scaled-dot-product attention
    becomes the memory-efficient CUDA kernel, which keeps query, key, value,
    output, one logsumexp a query, and the mask as a bias.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is nn.functional.dropout:
            return _cuda_dropout(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            return _cuda_attention(*args, **kwargs)
        return func(*args, **kwargs)


class StepMeter(TorchDispatchMode):
    """Sum FLOPs and moved bytes over all operations run while this context is active.

    FLOPs are those of PyTorch's own formulas (matrix products, convolutions,
    attention), bytes those of the inputs and outputs of every operation but views
    and allocations, which touch no memory. Operations are met as autograd issues
    them, so a product that nobody needs the gradient of is not met.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.operand_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        inputs = _tensors((args, kwargs))
        outputs = _tensors(result)
        storages = {_storage_key(tensor) for tensor in inputs}
        is_view = all(_storage_key(tensor) in storages for tensor in outputs)
        is_allocation = "empty" in func.__name__
        if func._schema.is_mutable or not (is_view or is_allocation):
            self.operand_bytes += sum(tensor.nbytes for tensor in inputs + outputs)
        return result


def _cuda_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]


def _cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:  # made anew in every layer, and kept by it
            zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
            attn_mask = zeros.masked_fill_(attn_mask.logical_not(), float("-inf"))
        columns = attn_mask.shape[-1]
        if missing := -columns % _BIAS_ALIGNMENT:
            attn_mask = nn.functional.pad(attn_mask, (0, missing))[..., :columns]
        attn_mask = attn_mask.expand(*query.shape[:-1], columns)
    return _EFFICIENT_ATTENTION(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
