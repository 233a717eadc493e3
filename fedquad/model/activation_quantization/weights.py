"""Which tensors are weights, or casts and views of weights: those are never packed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

# Operations between a weight and what is kept of it: casts (autocast's above all) and views.
_OF_ONE_WEIGHT = frozenset(
    f"{name}Backward0"
    for name in ("ToCopy", "T", "Transpose", "Permute", "View", "ReshapeAlias", "Clone", "Expand")
)
_LEAF = "torch::autograd::AccumulateGrad"


def weights_of(module: nn.Module, without: nn.Module | None = None) -> Iterator[Tensor]:
    """Parameters and buffers of a module, as they are now, those inside ``without`` left out.

    `nn.Module.parameters` takes three times as long, and this runs before every layer.
    """
    stack = [module]
    while stack:
        module = stack.pop()
        if module is None or module is without:
            continue
        for weight in module._parameters.values():
            if weight is not None:
                yield weight
        for buffer in module._buffers.values():
            if buffer is not None:
                yield buffer
        stack.extend(module._modules.values())


def storage_key(tensor: Tensor) -> int:
    """Address of the storage object, which views share and no two living storages have."""
    return tensor.untyped_storage()._cdata


class KnownWeights:
    """The weights that a layer can meet, by storage.

    Asked before every layer, since weights may be replaced between two calls
    (`torch.func.functional_call`, sharding, an adapter that is added).

    Attributes
    ----------
    of_layer, outside : set of int
        Storages of the weights of the layer, and of those outside all layers.
    """

    def __init__(self) -> None:
        self.of_layer: set[int] = set()
        self.outside: set[int] = set()
        self._layer: nn.Module | None = None
        self._cast_shapes: set[tuple] | None = None

    def enter_model(self, model: nn.Module, layers: nn.Module) -> None:
        """Note the weights outside the layers (embeddings that layers share, say)."""
        self.outside = {storage_key(weight) for weight in weights_of(model, without=layers)}

    def enter_layer(self, layer: nn.Module) -> None:
        """Note the weights of one layer."""
        self.of_layer = {storage_key(weight) for weight in weights_of(layer)}
        self._layer, self._cast_shapes = layer, None

    def leave_layer(self) -> None:
        """Forget the layer."""
        self._layer = self._cast_shapes = None

    def share_storage_with(self, tensor: Tensor) -> bool:
        """Whether a tensor is a weight or a view of one."""
        key = storage_key(tensor)
        return key in self.of_layer or key in self.outside

    def were_cast_to(self, tensor: Tensor) -> bool:
        """Whether a tensor with a storage of its own is a weight in another type.

        A cast of a weight that is trained leads back to it through the graph. One
        of a frozen weight leads nowhere: it is known as a whole matrix without a
        gradient, of the shape of a weight and of another type than that weight's.
        A matrix of activations that meets all of this is taken for a weight, and
        kept as it is.
        """
        if tensor.requires_grad:
            return self._descends_from_weight(tensor)
        base = tensor if tensor._base is None else tensor._base
        if tensor.dim() != 2 or base.dim() != 2 or base.numel() != tensor.numel():
            return False
        if self._cast_shapes is None:
            matrices = [weight for weight in weights_of(self._layer) if weight.dim() == 2]
            self._cast_shapes = {(frozenset(w.shape), w.dtype) for w in matrices}
        shape = frozenset(tensor.shape)  # in either orientation
        return any(sizes == shape and dtype != tensor.dtype for sizes, dtype in self._cast_shapes)

    def _descends_from_weight(self, tensor: Tensor) -> bool:
        node = tensor.grad_fn
        while node is not None and node.name() in _OF_ONE_WEIGHT:
            node = node.next_functions[0][0]
        if node is None or node.name() != _LEAF:
            return False
        return self.share_storage_with(node.variable)
