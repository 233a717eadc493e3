"""Makes the packing active inside the forward of chosen layers, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedquad.config import InputError
from fedquad.model.activation_quantization.packing import BlockPacker

_autograd = torch._C._autograd


class LayerScope:
    """Saved-tensor hooks that are pushed on entering a chosen layer, and popped on leaving it.

    Parameters
    ----------
    model : nn.Module
    layers : nn.ModuleList
        All transformer layers of the model.
    packer : BlockPacker
    """

    def __init__(self, model: nn.Module, layers: nn.ModuleList, packer: BlockPacker) -> None:
        self.pack: Callable = packer.pack
        self._model = model
        self._layers = layers
        self._packer = packer
        self._hooks: dict[int, tuple[Callable, Callable]] = {}
        self._handles: list = []
        self._marked: list[tuple[nn.Module, Callable]] = []
        self._inside: int | None = None
        self._pushed: Callable | None = None
        self._last_entered = len(layers)

    def set_layers(self, chosen: tuple[int, ...]) -> None:
        """Be active in these layers from now on."""
        self.remove()
        for idx in chosen:
            layer = self._layers[idx]
            if idx not in self._hooks:
                self._hooks[idx] = self._entering(idx, layer), self._leaving(idx, layer)
            enter, leave = self._hooks[idx]
            self._handles += (
                layer.register_forward_pre_hook(enter, with_kwargs=True),
                layer.register_forward_hook(leave, always_call=True),
            )
            # Code that torch.compile made of the whole model does not look for hooks that come
            # later. It does look for a forward of a layer's own: with one, it is compiled anew.
            if "forward" not in vars(layer):
                layer.forward = own = layer.forward
                self._marked.append((layer, own))

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for layer, own in self._marked:
            if vars(layer).get("forward") is own:  # and nobody has put another one over it
                del layer.forward
        self._marked.clear()
        self._pop()
        self._last_entered = len(self._layers)

    # Closures, not methods: a copy of the model shares them, and does not copy the packer with all
    # that it knows. The layer of a copy is another object, and is left alone.

    def _entering(self, idx: int, layer: nn.Module) -> Callable:
        @torch.compiler.disable
        def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if module is layer and torch.is_grad_enabled():
                self._enter(idx, layer, args, kwargs)

        return enter

    def _leaving(self, idx: int, layer: nn.Module) -> Callable:
        @torch.compiler.disable
        def leave(module: nn.Module, args: tuple, output: object) -> None:
            if module is layer and self._inside == idx:
                self._pop()

        return leave

    def _enter(self, idx: int, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        self._pop()  # a layer that was left by an interrupt, which runs no forward hook
        outer = _autograd._top_saved_tensors_default_hooks(False)
        _require_no_recomputation(idx, layer, outer)
        if idx <= self._last_entered:
            self._packer.enter_model(self._model, self._layers)
        self._last_entered = idx
        hidden = [kwargs["hidden_states"]] if "hidden_states" in kwargs else []
        self._packer.enter_layer(layer, (*hidden, *args, *kwargs.values()), outer)
        _autograd._push_saved_tensors_default_hooks(self.pack, self._packer.unpack)
        self._inside, self._pushed = idx, self.pack

    def _pop(self) -> None:
        if self._inside is None:
            return
        top = _autograd._top_saved_tensors_default_hooks(False)
        if top is not None and top[0] is self._pushed:
            _autograd._pop_saved_tensors_default_hooks()
        self._inside = self._pushed = None
        self._packer.leave_layer()


def _require_no_recomputation(idx: int, layer: nn.Module, outer: tuple | None) -> None:
    """Raise `InputError` where what the layer keeps would be thrown away and computed again."""
    if getattr(layer, "gradient_checkpointing", False) and layer.training:
        accepted = (
            "False in quantized layers: a checkpointed layer keeps nothing that could be quantized"
        )
        raise InputError(f"gradient_checkpointing of layer {idx}", True, accepted)
    if outer is not None and getattr(outer[0], "__module__", None) == "torch.utils.checkpoint":
        accepted = "no torch.utils.checkpoint around a quantized layer; inside of one it works"
        raise InputError(f"what surrounds quantized layer {idx}", "a checkpoint", accepted)
    if torch._C._current_graph_task_id() != -1:
        accepted = (
            "no forward of a quantized layer inside a backward pass, as checkpointing runs it to "
            "recompute what it did not keep"
        )
        raise InputError(f"what surrounds quantized layer {idx}", "a backward pass", accepted)
