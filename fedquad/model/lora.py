"""LoRA on chosen layers; the one place that knows where a layer's LoRA tensors and the head are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fedquad.config import InputError, require_int, require_layers
from fedquad.model.backbone import find_layers

ADAPTER_NAME = "default"  # peft's own name for the only adapter of a model

# What peft saves of every classification model, by itself.
_CLASSIFIERS = ("classifier", "score")

# Names of the query and value projections inside a layer, by family: BERT, RoBERTa, ELECTRA;
# DeBERTaV3; DistilBERT; Llama and most decoders; T5-like. Then fused ones, where query, key and
# value are one linear map (ModernBERT, GPT-2, DeBERTa, Phi, BLOOM): LoRA cannot leave the key out
# there, one A serves all three and B has three times the rows.
PROJECTIONS = (
    ("query", "value"),
    ("query_proj", "value_proj"),
    ("q_lin", "v_lin"),
    ("q_proj", "v_proj"),
    ("q", "v"),
    ("Wqkv",),
    ("c_attn",),
    ("in_proj",),
    ("qkv_proj",),
    ("query_key_value",),
)


def attach_lora(
    model: PreTrainedModel,
    *,
    rank: int = 16,
    alpha: int = 16,
    fresh_modules: tuple[str, ...] = (),
    seed: int = 0,
) -> PeftModel:
    """Put LoRA on the query and value projections of every layer; freeze the rest but the head.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Changed in place.
    rank, alpha : int
        The update of a projection is ``alpha / rank * B @ A`` (Eq. 2), A of shape
        (rank, in), drawn from ``seed``, B of shape (out, rank), zero. Dropout is 0.
    fresh_modules : tuple of str
        Modules trained whole with the LoRA, as `Backbone.fresh_modules` names
        them; the classifier is always one of them.
    seed : int
        Of A.

    Raises
    ------
    InputError
        No query and value projections are known for this architecture, or the
        model has LoRA already.
    """
    require_int("rank", rank, 1)
    require_int("alpha", alpha, 1)
    if isinstance(model, PeftModel):
        raise InputError("model", type(model).__name__, "a model that has no LoRA yet")
    layers = find_layers(model)
    path = module_path(model, layers)
    targets = [
        f"{path}.{idx}.{name}" for idx, layer in enumerate(layers) for name in _projections(layer)
    ]
    for name in fresh_modules:
        if name not in dict(model.named_modules()):
            raise InputError("fresh_modules", name, "names of modules of the model")
    # peft cannot load an adapter that saves a module and a part of it.
    whole = (*fresh_modules, *_CLASSIFIERS)
    saved = [n for n in fresh_modules if not any(n.startswith(f"{outer}.") for outer in whole)]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=targets,
        modules_to_save=saved or None,
        fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 still asks transformers 5.23 by the old name.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def lora_tensors(model: PeftModel) -> dict[int, dict[str, nn.Parameter]]:
    """LoRA parameters by layer index, under names such as ``attention.self.query.lora_A``.

    A has shape (rank, in), B (out, rank), whatever the projection's own layout.
    """
    tensors: dict[int, dict[str, nn.Parameter]] = {}
    for idx, layer in enumerate(find_layers(model)):
        tensors[idx] = {}
        for name, module in layer.named_modules():
            if isinstance(module, LoraLayer):
                tensors[idx][f"{name}.lora_A"] = module.lora_A[ADAPTER_NAME].weight
                tensors[idx][f"{name}.lora_B"] = module.lora_B[ADAPTER_NAME].weight
    return tensors


def head_modules(model: PeftModel) -> dict[str, nn.Module]:
    """The modules trained whole beside the LoRA, by their names in the model without peft."""
    return {
        name: module.modules_to_save[ADAPTER_NAME]
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }


def head_tensors(model: PeftModel) -> dict[str, nn.Parameter]:
    """Parameters of the head, by their names in the model without peft."""
    return {
        f"{name}.{weight_name}": weight
        for name, module in head_modules(model).items()
        for weight_name, weight in module.named_parameters()
    }


def module_path(model: nn.Module, wanted: nn.Module) -> str:
    """Dotted name of a submodule."""
    return next(name for name, module in model.named_modules() if module is wanted)


def set_trainable_layers(model: PeftModel, layers: tuple[int, ...]) -> None:
    """Train the LoRA of these layers and the head; nothing else gets a gradient.

    Layers below the lowest trainable one then keep nothing for backward: no
    tensor that enters them needs a gradient, so autograd records nothing.

    Parameters
    ----------
    layers : tuple of int
        Ascending indices in ``0 .. L - 1``, at least one.
    """
    tensors = lora_tensors(model)
    require_layers("layers", layers, len(tensors))
    if not layers:
        raise InputError("layers", layers, "at least one layer")
    for layer, weights in tensors.items():
        _set_trainable(weights.values(), layer in layers)
    _set_trainable(head_tensors(model).values(), True)


def set_lora_depth(model: PeftModel, depth: int) -> None:
    """Train the LoRA of the ``depth`` layers nearest to the output, ``1 <= depth <= L``."""
    total = len(find_layers(model))
    require_int("depth", depth, 1, total)
    set_trainable_layers(model, tuple(range(total - depth, total)))


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name, in the model's order; for LoRA and full tuning."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def gradient_norms(lora: Mapping[int, Mapping[str, nn.Parameter]]) -> dict[int, float]:
    """g_l: L2 norm of the gradient of each layer's LoRA tensors, where it has one.

    Parameters
    ----------
    lora : mapping of int to mapping of str to Parameter
        As `lora_tensors` gives it.

    Returns
    -------
    dict of int to float
        Trainable layers only, ascending; empty before the first backward.
    """
    norms = {}
    for layer, weights in lora.items():
        gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
        if gradients:
            norms[layer] = torch.nn.utils.get_total_norm(gradients)
    if not norms:
        return {}
    values = torch.stack(list(norms.values())).tolist()  # one transfer from a GPU, not L
    return dict(zip(norms, values, strict=True))


def _set_trainable(weights: Iterable[nn.Parameter], trainable: bool) -> None:
    for weight in weights:
        weight.requires_grad_(trainable)
        if not trainable:
            weight.grad = None  # a stale one would still be stepped on


def _projections(layer: nn.Module) -> list[str]:
    linear = [n for n, m in layer.named_modules() if isinstance(m, (nn.Linear, Conv1D))]
    for wanted in PROJECTIONS:
        names = [name for name in linear if name.rpartition(".")[2] in wanted]
        if len({name.rpartition(".")[2] for name in names}) == len(wanted):
            return names
    known = "; ".join(" and ".join(names) for names in PROJECTIONS)
    accepted = f"a layer with projections named {known}; it has {', '.join(linear) or 'none'}"
    raise InputError("model", type(layer).__name__, accepted)
