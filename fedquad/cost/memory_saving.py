"""What makes a step keep less: which layers are quantized or checkpointed, and checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from fedquad.config import InputError, require_layers


def kept_layers(trainable_layers: tuple[int, ...] | None, num_layers: int) -> range:
    """Layers that keep something for backward: from the lowest trained one upward.

    Parameters
    ----------
    trainable_layers : tuple of int or None
        As `fedquad.cost.random_model.checked_layers` gives them; None (full
        fine-tuning) is every layer.
    """
    return range(trainable_layers[0] if trainable_layers else 0, num_layers)


def checked_quantized_layers(
    quantized_layers: tuple[int, ...], trainable_layers: tuple[int, ...] | None, num_layers: int
) -> tuple[int, ...]:
    """The layers themselves, if they can be quantized.

    Raises
    ------
    InputError
        No ascending indices, a layer below the lowest trained one, which keeps
        nothing, or the output layer, which is never quantized (Section III-D).
    """
    require_layers("quantized_layers", quantized_layers, num_layers)
    candidates = kept_layers(trainable_layers, num_layers)[:-1]
    if not set(quantized_layers) <= set(candidates):
        accepted = (
            f"layers from {candidates.start}, the lowest trained one, to {num_layers - 2}: "
            f"those below keep nothing, and the output layer {num_layers - 1} is never quantized"
        )
        raise InputError("quantized_layers", quantized_layers, accepted)
    return quantized_layers


def checked_checkpointing(
    checkpointing: bool | tuple[int, ...],
    quantized_layers: tuple[int, ...],
    trainable_layers: tuple[int, ...] | None,
    num_layers: int,
) -> tuple[int, ...]:
    """Layers to checkpoint: every one that keeps something for True, none for False.

    Checkpointing a layer below the lowest trained one would save nothing: PyTorch
    would hold its input for a recomputation that never comes.

    Raises
    ------
    InputError
        Layers that the model has not or that keep nothing, or a layer that is
        quantized too: what is recomputed need not be kept, so there is nothing to
        quantize.
    """
    candidates = tuple(kept_layers(trainable_layers, num_layers))
    if isinstance(checkpointing, bool):
        checkpointing = candidates if checkpointing else ()
    require_layers("checkpointing", checkpointing, num_layers)
    if not set(checkpointing) <= set(candidates):
        accepted = f"True, False or some of the layers that keep something, {candidates}"
        raise InputError("checkpointing", checkpointing, accepted)
    if set(checkpointing) & set(quantized_layers):
        accepted = f"none of the quantized layers {quantized_layers}"
        raise InputError("checkpointing", checkpointing, accepted)
    return checkpointing


@contextmanager
def wrapped_forwards(layers: Iterable[nn.Module], wrap: Callable[..., Callable]) -> Iterator[None]:
    """Call ``wrap(layer.forward)`` instead of each forward; hooks on the layers stay outside."""
    layers = list(layers)
    before = [layer.__dict__.get("forward") for layer in layers]  # None: the class's own
    for layer in layers:
        layer.forward = wrap(layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def checkpoint_layers(
    layers: Iterable[nn.Module], **options: object
) -> AbstractContextManager[None]:
    """Keep only the inputs of these layers, and run them again in backward.

    Parameters
    ----------
    **options
        Of `torch.utils.checkpoint.checkpoint`, such as ``preserve_rng_state``.
    """
    return wrapped_forwards(
        layers, lambda forward: partial(checkpoint, forward, use_reentrant=False, **options)
    )
