"""Keep the activations of chosen layers as INT8 blocks until the backward pass needs them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from weakref import WeakKeyDictionary

from torch import nn

from fedquad.config import InputError, require_choice, require_layers
from fedquad.model.activation_quantization.packing import BlockPacker
from fedquad.model.activation_quantization.recording import ActivationRecord, recording
from fedquad.model.activation_quantization.scope import LayerScope
from fedquad.model.activation_quantization.settings import QuantizationSettings
from fedquad.model.activation_quantization.weights import weights_of
from fedquad.model.backbone import find_layers

PATHS = ("auto", "hooks", "fused")
_BACKENDS = ("cpu", "cuda", "meta")

# By the list of layers, which a model shares with every wrapper around it.
_quantizers: WeakKeyDictionary[nn.ModuleList, ActivationQuantizer] = WeakKeyDictionary()


def quantize_activations(
    model: nn.Module,
    layers: Iterable[int],
    *,
    bits: int = 8,
    block_size: int = 32,
    rounding: str = "nearest",
    path: str = "auto",
    seed: int = 0,
    allow_output_layer: bool = False,
) -> ActivationQuantizer:
    """Keep what chosen layers save for backward as INT8 blocks, and give it back in backward.

    The forward result does not change. In backward, a tensor that was saved comes
    back with its type, shape and strides, and within half a quantization step
    (stochastic rounding: one step) of what it was.

    What that does to gradients depends on the model: activations with peaks (the
    attention of a trained encoder) make a step coarse, 1 to 2 % of the LoRA gradient
    where random weights have 0.1 to 0.2 %. ReLU, whose backward asks only whether its
    result is above 0, loses the outputs below half a step: nearer to 8 %.

    Parameters
    ----------
    model : nn.Module
        Any encoder or decoder of transformers, with LoRA or without, on a CPU or
        a CUDA device. Not changed but for hooks on the chosen layers.
    layers : iterable of int
        Ascending indices of the transformer layers; none is allowed.
    bits : {8, 4}
        Of a code.
    block_size : int
        Side of the square blocks, each with its own scale: 8, 16, 32, 64 or 128.
    rounding : {"nearest", "stochastic"}
    path : {"auto", "hooks", "fused"}
        ``hooks`` works on every layer. ``fused`` uses kernels that write the
        blocks while they compute, and refuses layers it does not know. ``auto``
        takes them for layers on a GPU that are known, hooks for the others.
    seed : int
        Of stochastic rounding.
    allow_output_layer : bool
        Whether the last layer may be among ``layers``. The paper never quantizes it.

    Returns
    -------
    ActivationQuantizer
        Works until `remove` is called, or as a context manager.

    Raises
    ------
    InputError
        For any value that is not one of these, a model whose layers cannot be
        found or that is on another kind of device, and a model that is being
        quantized already.

    Examples
    --------
    >>> with quantize_activations(model, range(4)):
    ...     model(**batch).loss.backward()
    """
    settings = QuantizationSettings(bits=bits, block_size=block_size, rounding=rounding, seed=seed)
    require_choice("path", path, PATHS)
    found = find_layers(model)
    devices = {weight.device.type for weight in model.parameters()}
    for device in devices.difference(_BACKENDS):
        raise InputError("device of the model", device, f"one of {', '.join(_BACKENDS)}")
    if found in _quantizers:
        accepted = "a model that no other quantizer works on: call its remove() or set_layers()"
        raise InputError("model", type(model).__name__, accepted)
    quantizer = ActivationQuantizer(model, found, settings, path, allow_output_layer)
    quantizer.set_layers(layers)
    _quantizers[found] = quantizer
    return quantizer


class ActivationQuantizer:
    """Quantization of the activations of one model; made by `quantize_activations`."""

    def __init__(
        self,
        model: nn.Module,
        layers: nn.ModuleList,
        settings: QuantizationSettings,
        path: str,
        allow_output_layer: bool,
    ) -> None:
        self.settings = settings
        self.path = path
        self._model = model
        self._all_layers = layers
        self._highest = len(layers) if allow_output_layer else len(layers) - 1
        self._chosen: tuple[int, ...] = ()
        self._packer = BlockPacker(settings)
        self._scope = LayerScope(model, layers, self._packer)
        self._fused: list = []
        self._is_removed = False

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are quantized; none after `remove`."""
        return self._chosen

    def set_layers(self, layers: Iterable[int]) -> None:
        """Quantize these layers instead, from the next forward on; costs nothing.

        Raises
        ------
        InputError
            As `quantize_activations` does; the layers are the same as before then.
        RuntimeError
            After `remove`: another quantizer may be at work by then.
        """
        self._require_in_use()
        chosen = tuple(layers) if isinstance(layers, Iterable) else layers
        require_layers("layers", chosen, len(self._all_layers))
        if chosen and chosen[-1] >= self._highest:
            accepted = (
                f"layers below {self._highest}: layer {self._highest} feeds the head, "
                "and is quantized only with allow_output_layer=True"
            )
            raise InputError("layers", chosen, accepted)
        self._detach()
        self._attach(chosen)

    def remove(self) -> None:
        """Leave the model as it was, for good; what was packed can still be used in backward."""
        self._detach()
        self._is_removed = True
        if _quantizers.get(self._all_layers) is self:
            del _quantizers[self._all_layers]

    def recording(self) -> AbstractContextManager[ActivationRecord]:
        """Record what the quantized layers keep while the context is active.

        Returns
        -------
        context manager of ActivationRecord
        """
        return recording(self._all_layers, self._scope, self._packer)

    def __enter__(self) -> ActivationQuantizer:
        self._require_in_use()
        return self

    def __exit__(self, *exception) -> None:
        self.remove()

    def _require_in_use(self) -> None:
        if self._is_removed:
            raise RuntimeError("this quantizer was removed: call quantize_activations again")

    def _attach(self, chosen: tuple[int, ...]) -> None:
        for idx in chosen:
            self._fuse(self._all_layers[idx])
        self._scope.set_layers(chosen)
        self._chosen = chosen

    def _detach(self) -> None:
        self._scope.remove()
        while self._fused:
            self._fused.pop().remove()
        self._chosen = ()

    def _fuse(self, layer: nn.Module) -> None:
        if self.path == "hooks":
            return
        if self.path == "auto" and not any(weight.is_cuda for weight in weights_of(layer)):
            return
        from fedquad.model.activation_quantization.fused import attach_fused

        attached = attach_fused(layer, self._packer)
        if attached is not None:
            self._fused.append(attached)
        elif self.path == "fused":
            self._detach()
            accepted = "layers that have fused kernels; path='hooks' works on every layer"
            raise InputError("path", self.path, f"{accepted} (found {type(layer).__name__})")
