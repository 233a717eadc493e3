"""A model that runs some of its layers only, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fedquad.config import InputError, require_layers
from fedquad.model.backbone import find_layers


@contextmanager
def active_layers(model: nn.Module, layers: tuple[int, ...]) -> Iterator[None]:
    """Skip every layer but these in forward and backward; names of parameters stay.

    The list of layers is shortened in place, and restored at the end. Inside the
    block the model has fewer layers than its configuration says, so what looks
    for them (`find_layers`, `fedquad.model.lora.lora_tensors`) does so before.

    Parameters
    ----------
    layers : tuple of int
        Ascending indices in ``0 .. L - 1``, at least one.

    Raises
    ------
    InputError
        For any other layers.
    """
    found = find_layers(model)
    require_layers("layers", layers, len(found))
    if not layers:
        raise InputError("layers", layers, "at least one layer")
    whole = dict(found._modules)
    if len(layers) == len(whole):
        yield
        return
    kept = {str(layer) for layer in layers}
    try:
        for name in whole.keys() - kept:
            del found._modules[name]
        yield
    finally:
        found._modules.clear()
        found._modules.update(whole)
