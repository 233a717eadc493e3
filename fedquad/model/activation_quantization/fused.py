"""Fused operations in the layers of a model: the same meaning as the hooks, in fewer passes.

Each operation keeps its saved tensors as blocks that its kernel writes while it
computes, and reads them directly in backward. What a layer has beside these
operations (dropout masks, rotary products, …) is left to the hooks.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AttentionInterface, activations
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fedquad.kernels.attention import attention
from fedquad.kernels.block_quantization import quantize_blocks
from fedquad.kernels.gelu import gelu
from fedquad.kernels.layer_norm import layer_norm
from fedquad.kernels.lora import quantized_linear
from fedquad.model.activation_quantization.packing import BlockPacker

ATTENTION_NAME = "fedquad_quantized"

# Modules that compute GELU and nothing else, and which of its two forms.
_GELUS = {
    activations.GELUActivation: "none",
    activations.GELUTanh: "tanh",
    activations.NewGELUActivation: "tanh",
    activations.FastGELUActivation: "tanh",
}
# What an attention function may be given that changes nothing of what it computes.
_HARMLESS = frozenset({"position_ids", "cache_position", "use_cache", "output_hidden_states"})

_attentions: WeakKeyDictionary[nn.Module, tuple[BlockPacker, object]] = WeakKeyDictionary()


class FusedLayer:
    """The fused operations of one layer; `remove` brings its own back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def replace_forward(self, module: nn.Module, forward: Callable) -> None:
        """Let ``module`` run ``forward``; not where somebody else has replaced it already."""
        if "forward" not in vars(module):
            module.forward = forward
            self._undo.append(partial(delattr, module, "forward"))

    def replace_attention(self, module: nn.Module, packer: BlockPacker) -> None:
        """Let an attention module look our function up instead of its own."""
        own_config = module.config
        config = copy.copy(own_config)
        config._attn_implementation = ATTENTION_NAME
        _attentions[module] = packer, _attention_of(module, own_config)
        module.config = config
        self._undo.append(partial(setattr, module, "config", own_config))
        self._undo.append(partial(_attentions.pop, module))

    def remove(self) -> None:
        """Leave every module of the layer as it was."""
        while self._undo:
            self._undo.pop()()


def attach_fused(layer: nn.Module, packer: BlockPacker) -> FusedLayer | None:
    """Replace the operations of a layer that have fused kernels.

    Parameters
    ----------
    layer : nn.Module
        A transformer layer.
    packer : BlockPacker
        Its settings are those of the stored blocks.

    Returns
    -------
    FusedLayer or None
        None where no operation is known; the layer is unchanged then.
    """
    fused = FusedLayer()
    shared = _BlocksOfLast(packer)
    for module in layer.modules():
        if form := _gelu_form(module):
            fused.replace_forward(module, partial(_gelu, packer, form))
        elif _adds_and_norms(module):
            fused.replace_forward(module, partial(_add_and_norm, packer, module))
        elif _is_layer_norm(module):
            fused.replace_forward(module, partial(_norm, packer, module))
        elif _looks_attention_up(module):
            fused.replace_attention(module, packer)
        elif isinstance(module, LoraLayer):
            for down in module.lora_A.values():
                if type(down) is nn.Linear and down.bias is None:
                    fused.replace_forward(down, partial(_down, shared, down))
    return fused or None


def _gelu_form(module: nn.Module) -> str | None:
    if type(module) is nn.GELU:
        return module.approximate
    return _GELUS.get(type(module))


def _gelu(packer: BlockPacker, form: str, x: Tensor) -> Tensor:
    with _recorded(packer, x):
        return gelu(x, approximate=form, **_options(packer))


def _is_layer_norm(module: nn.Module) -> bool:
    return type(module) is nn.LayerNorm and len(module.normalized_shape) == 1


def _norm(packer: BlockPacker, module: nn.LayerNorm, x: Tensor) -> Tensor:
    with _recorded(packer, x):
        return layer_norm(x, module.weight, module.bias, module.eps, **_options(packer))


def _adds_and_norms(module: nn.Module) -> bool:
    """Whether a module is ``LayerNorm(dropout(dense(x)) + residual)``, as in BERT and its kin."""
    names = dict(module.named_children())
    if list(names) not in (["dense", "LayerNorm", "dropout"], ["dense", "dropout", "LayerNorm"]):
        return False
    arguments = type(module).forward.__code__.co_varnames[:3]
    return _is_layer_norm(names["LayerNorm"]) and arguments == (
        "self",
        "hidden_states",
        "input_tensor",
    )


def _add_and_norm(
    packer: BlockPacker, module: nn.Module, hidden_states: Tensor, input_tensor: Tensor
) -> Tensor:
    hidden_states = module.dropout(module.dense(hidden_states))
    norm = module.LayerNorm
    with _recorded(packer, other_bytes=hidden_states.nbytes):  # the sum, which is not made
        return layer_norm(
            hidden_states,
            norm.weight,
            norm.bias,
            norm.eps,
            residual=input_tensor,
            **_options(packer),
        )


def _looks_attention_up(module: nn.Module) -> bool:
    """Whether a module takes its attention function from transformers' registry."""
    names = getattr(type(module).forward, "__code__", None)
    return names is not None and "ALL_ATTENTION_FUNCTIONS" in names.co_names


def _attention_of(module: nn.Module, config: object) -> Callable:
    """The function that an attention module would look up by itself."""
    namespace = type(module).forward.__globals__
    eager = namespace.get("eager_attention_forward")
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: (B, h, S, d) in, (B, S, h, d) out."""
    packer, own = _attentions[module]
    special = {name for name, value in kwargs.items() if value is not None and value is not False}
    if not torch.is_grad_enabled() or special - _HARMLESS:
        return own(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            is_causal=is_causal,
            **kwargs,
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    seed = None
    if dropout:  # drawn where it is used: nothing waits, and a compiled graph holds for all values
        seed = torch.randint(1 << 62, (), device=query.device)
    with _recorded(packer, query, key, value, other_bytes=_eager_bytes(query, key, dropout)):
        result = attention(
            query,
            key,
            value,
            mask=attention_mask,
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            dropout_p=dropout,
            is_causal=causal and attention_mask is None and query.shape[2] > 1,
            dropout_seed=seed,
            **_options(packer),
        )
    return result.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _attend)


def _eager_bytes(query: Tensor, key: Tensor, dropout: float) -> int:
    """What eager attention keeps beside query, key and value: probabilities, and of dropout a mask.

    The mask has a byte an element on CUDA, and the size of a number elsewhere.
    """
    numel = query.shape[:3].numel() * key.shape[2]
    mask_itemsize = 1 if query.is_cuda else query.itemsize
    return numel * (query.itemsize + bool(dropout) * (query.itemsize + mask_itemsize))


def _down(shared: _BlocksOfLast, module: nn.Linear, x: Tensor) -> Tensor:
    """A LoRA A whose gradient reads the blocks of x."""
    if not (torch.is_grad_enabled() and module.weight.requires_grad):
        return nn.functional.linear(x, module.weight)
    settings = shared.packer.settings
    codes, scales = shared.blocks(x)
    with _recorded(shared.packer, x):
        return quantized_linear(
            x, module.weight, codes, scales, bits=settings.bits, block_size=settings.block_size
        )


class _BlocksOfLast:
    """Blocks of the tensor asked for last: the query and value projections share their input."""

    def __init__(self, packer: BlockPacker) -> None:
        self.packer = packer
        self._source: weakref.ref[Tensor] | None = None
        self._version = 0
        self._blocks: tuple[Tensor, Tensor] | None = None

    def blocks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        known = self._source is not None and self._source() is x and self._version == x._version
        if not known or self._blocks is None:
            self._blocks = quantize_blocks(x.detach().flatten(0, -2), **_options(self.packer))
            self._source, self._version = weakref.ref(x, self._forget), x._version
        return self._blocks

    def _forget(self, _) -> None:
        self._source = self._blocks = None


def _recorded(packer: BlockPacker, *saved: Tensor, other_bytes: int = 0) -> AbstractContextManager:
    """Tell a recorder, if there is one, what a fused operation spares."""
    if packer.recorder is None:
        return nullcontext()
    return packer.recorder.fused(saved, other_bytes)


def _options(packer: BlockPacker) -> dict[str, int | None]:
    settings = packer.settings
    seed = packer.next_seed()
    return {"bits": settings.bits, "block_size": settings.block_size, "seed": seed}
