"""What a forward pass keeps for the backward pass, counted with PyTorch's own hooks.

The library counts the same for models of any size, on tensors that hold no data
(`fedquad.cost.accounting`): this file is what the walkthrough shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fedquad.model.backbone import find_layers

ELSEWHERE = -1  # embeddings, head and loss


@contextmanager
def place_of_the_forward(model: nn.Module) -> Iterator[list[int]]:
    """A list whose only element is the layer that runs at the moment, or ELSEWHERE."""
    place = [ELSEWHERE]

    def entering(layer: int):
        def hook(*_: object) -> None:
            place[0] = layer

        return hook

    handles = []
    for index, layer in enumerate(find_layers(model)):
        handles.append(layer.register_forward_pre_hook(entering(index)))
        handles.append(layer.register_forward_hook(entering(ELSEWHERE)))
    try:
        yield place
    finally:
        for handle in handles:
            handle.remove()


def kept_tensors(model: nn.Module, batch: dict[str, Tensor]) -> list[dict[str, object]]:
    """Every tensor that autograd keeps in one forward pass: its layer, shape, type and bytes.

    A tensor that several operations keep is there once, and counts once, for the
    layer that keeps it first. A weight is there anyway: it is left out, and so is
    ``weight.t()``, which a frozen layer keeps and which has the weight's storage.
    """
    # The storages themselves are held, so that the address of a freed one is not met again.
    seen = {weight.untyped_storage().data_ptr(): weight for weight in model.parameters()}
    seen |= {buffer.untyped_storage().data_ptr(): buffer for buffer in model.buffers()}
    kept: list[dict[str, object]] = []

    with place_of_the_forward(model) as place:

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen[storage.data_ptr()] = tensor
                shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
                row = {"layer": place[0], "shape": shape, "dtype": dtype}
                kept.append(row | {"bytes": storage.nbytes()})
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**batch)
    return kept


def kept_bytes(model: nn.Module, batch: dict[str, Tensor]) -> list[int]:
    """Bytes kept by each layer, the one at the input first."""
    layers = [0] * len(find_layers(model))
    for row in kept_tensors(model, batch):
        if row["layer"] != ELSEWHERE:
            layers[row["layer"]] += row["bytes"]
    return layers
